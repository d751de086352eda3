//! `meshctl token`

use anyhow::{Result, bail};
use edgeloom_api::admin::{NewToken, TOKENS, Token, TokenRequest};

use crate::args::{Output, Token as Command};
use crate::connect::Source;
use crate::show::{self, Table};

pub(crate) async fn run(source: Source, command: &Command, output: Output) -> Result<()> {
    let Source::Control(control) = source else {
        bail!("tokens are the control's: leave out --socket and use a kubeconfig");
    };
    match command {
        Command::Create { site, ttl, uses, node, quiet } => {
            let request = TokenRequest {
                site: site.to_string(),
                ttl_seconds: ttl.as_secs(),
                uses: *uses,
                node: node.as_ref().map(ToString::to_string),
            };
            let made: NewToken = control.post(TOKENS, Some(&request)).await?;
            match output {
                Output::Json => show::json(&made),
                Output::Table if *quiet => Ok(show::line(&made.token)?),
                Output::Table => created(&made),
            }
        }
        Command::List => {
            let tokens: Vec<Token> = control.get(TOKENS).await?;
            match output {
                Output::Json => show::json(&tokens),
                Output::Table => list(&tokens),
            }
        }
        Command::Revoke { id } => {
            control.delete(&format!("{TOKENS}/{id}")).await?;
            match output {
                Output::Json => show::json(&serde_json::json!({"revoked": id})),
                Output::Table => {
                    Ok(show::line(format_args!("token {id} revoked; nodes that joined with it stay"))?)
                }
            }
        }
    }
}

fn created(made: &NewToken) -> Result<()> {
    let NewToken { token, details } = made;
    show::line(token)?;
    let who = details.node.as_ref().map_or_else(|| "a node".to_owned(), |node| format!("the node {node}"));
    let times =
        if details.uses_left == 1 { "once".to_owned() } else { format!("{} times", details.uses_left) };
    let life = show::until(details.expires, show::now());
    // To the people; the token alone goes to where the output goes.
    eprintln!(
        "Lets {who} join the site {}, {times}, within {life}. It is not shown again; its id is {}.\n\
         On the node, in /etc/edgeloom/edgecore.yaml: control and token; then start edgecore.",
        details.site, details.id
    );
    Ok(())
}

fn list(tokens: &[Token]) -> Result<()> {
    let mut table = Table::new(&["ID", "SITE", "NODE", "USES LEFT", "EXPIRES IN"]);
    for token in tokens {
        table.row([
            token.id.as_str().into(),
            token.site.as_str().into(),
            token.node.as_deref().unwrap_or("any").into(),
            token.uses_left.into(),
            show::until(token.expires, show::now()).into(),
        ]);
    }
    if table.is_empty() {
        show::line("There is no token. `meshctl token create --site SITE` makes one.")?;
    } else {
        table.print()?;
    }
    Ok(())
}
