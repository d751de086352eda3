//! Compiles the kernel side (`programs/datapath.c`) with clang, and renders `programs/abi.h` as Rust.

use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What to do where the compiler or libbpf's headers are not there.
const REMEDY: &str = "install them with: apt-get install -y clang libbpf-dev";

fn main() -> Result<(), Box<dyn Error>> {
    for input in ["programs", "build.rs"] {
        println!("cargo::rerun-if-changed={input}");
    }
    println!("cargo::rerun-if-env-changed=EDGELOOM_CLANG");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    compile(Path::new("programs/datapath.c"), &out.join("datapath.o"))?;
    let header = fs::read_to_string("programs/abi.h")?;
    fs::write(out.join("abi.rs"), render(&header)?)?;
    Ok(())
}

fn compile(source: &Path, object: &Path) -> Result<(), Box<dyn Error>> {
    let clang = env::var("EDGELOOM_CLANG").unwrap_or_else(|_| "clang".into());
    let mut command = Command::new(&clang);
    command.args(["-target", "bpf", "-mcpu=v3", "-g", "-O2", "-Wall", "-Wextra", "-Werror"]);
    if let Some(multiarch) = asm_headers() {
        command.arg("-I").arg(multiarch);
    }
    let run = command.arg("-c").arg(source).arg("-o").arg(object).output();
    let output = match run {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(format!("{clang} is needed to compile the eBPF programs; {REMEDY}").into());
        }
        Err(error) => return Err(format!("cannot run {clang}: {error}").into()),
    };
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("file not found") {
        return Err(format!("headers for the eBPF programs are missing; {REMEDY}\n{said}").into());
    }
    Err(format!("{clang} could not compile {}:\n{said}", source.display()).into())
}

/// Debian and Ubuntu keep `<asm/types.h>` under the multiarch triplet, which a `bpf` target does not
/// search. The headers only define sizes that are the same for BPF, whatever the architecture.
fn asm_headers() -> Option<PathBuf> {
    fs::read_dir("/usr/include")
        .ok()?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.join("asm/types.h").is_file())
}

/// Renders the header's structs and constants as Rust. A line that is not of its dialect is an error.
fn render(header: &str) -> Result<String, Box<dyn Error>> {
    let mut out = String::new();
    let mut inside: Option<String> = None;
    let mut comment = false;
    for (number, line) in header.lines().map(str::trim).enumerate() {
        if line.starts_with("/*") {
            comment = true;
        }
        if comment {
            comment = !line.ends_with("*/");
            continue;
        }
        let rendered = match &inside {
            Some(name) if line == "};" => {
                let name = name.clone();
                inside = None;
                Some(format!("}}\nunsafe_pod!({name});\n\n"))
            }
            Some(_) => member(line),
            None => match line.strip_prefix("struct ").and_then(|rest| rest.strip_suffix(" {")) {
                Some(name) => {
                    let name = camel(name);
                    let open = format!("{DERIVES}\npub(crate) struct {name} {{\n");
                    inside = Some(name);
                    Some(open)
                }
                None => outside(line),
            },
        };
        out += &rendered.ok_or_else(|| format!("programs/abi.h:{}: cannot render `{line}`", number + 1))?;
    }
    Ok(out)
}

const DERIVES: &str =
    "#[repr(C)]\n#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]";

fn outside(line: &str) -> Option<String> {
    if let Some(text) = line.strip_prefix("//") {
        return Some(format!("///{text}\n"));
    }
    let Some(define) = line.strip_prefix("#define ") else {
        return (line.is_empty() || line.starts_with('#')).then(String::new);
    };
    match define.split_once(' ') {
        Some((name, value)) => {
            let value: u32 = value.parse().ok()?;
            Some(format!("pub(crate) const {name}: u32 = {value};\n\n"))
        }
        None => Some(String::new()),
    }
}

fn member(line: &str) -> Option<String> {
    let (kind, name) = line.strip_suffix(';')?.rsplit_once(' ')?;
    let kind = match kind {
        "__u8" => "u8".into(),
        // Kept in network order on both sides.
        "__be16" => "u16".into(),
        "__u32" => "u32".into(),
        "__u64" => "u64".into(),
        other => camel(other.strip_prefix("struct ")?),
    };
    let mut line = String::from("    ");
    match name.split_once('[') {
        Some((name, length)) => {
            let length: usize = length.strip_suffix(']')?.parse().ok()?;
            writeln!(line, "pub(crate) {name}: [{kind}; {length}],").ok()?;
        }
        None => writeln!(line, "pub(crate) {name}: {kind},").ok()?,
    }
    Some(line)
}

/// `backend_key` as `BackendKey`.
fn camel(name: &str) -> String {
    name.split('_')
        .map(|word| {
            let (first, rest) = word.split_at(1);
            first.to_uppercase() + rest
        })
        .collect()
}
