//! ClusterIPs: families by policy, requested addresses, free ones at random.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde_json::{Value, json};

use super::Book;
use crate::error::{FieldError, Result};

pub(super) const SPACE: &str = "ip";
/// Random picks before the range is searched from its start.
const PICKS: usize = 64;
/// Addresses that a search looks at: a range that is so full has to be made larger anyway.
const SEARCHED: u128 = 1 << 17;

/// The addresses that a Service holds.
pub(super) fn held(service: &Value) -> Vec<String> {
    let list = service["spec"]["clusterIPs"].as_array();
    let texts = list.into_iter().flatten().filter_map(Value::as_str);
    texts.filter_map(|text| text.parse::<IpAddr>().ok()).map(|ip| ip.to_string()).collect()
}

/// Sets `clusterIP`, `clusterIPs`, `ipFamilies` and `ipFamilyPolicy`.
pub(super) fn admit(
    book: &Book<'_, '_>,
    service: &mut Value,
    old: Option<&Value>,
    cidrs: &[IpNet],
    errors: &mut Vec<FieldError>,
) -> Result<()> {
    let spec = &mut service["spec"];
    if spec["type"] == "ExternalName" {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if let Some(map) = spec.as_object_mut() {
                map.shift_remove(field);
            }
        }
        return Ok(());
    }
    let requested = requested(spec);
    let headless = requested.first().is_some_and(|one| one == "None");
    let families = families(spec, &requested, headless, cidrs, errors);
    if !errors.is_empty() {
        return Ok(());
    }
    spec["ipFamilies"] = families.iter().map(|family| json!(family.name())).collect();
    if headless {
        spec["clusterIP"] = json!("None");
        spec["clusterIPs"] = json!(["None"]);
        return Ok(());
    }
    let mut addresses = Vec::new();
    for (index, family) in families.iter().enumerate() {
        let cidr = cidrs.iter().find(|cidr| Family::of(cidr.addr()) == *family);
        let Some(cidr) = cidr else { continue };
        let address = match requested.get(index).map(|text| text.parse::<IpAddr>()) {
            Some(Ok(address)) => take(book, address, cidr, &requested, old, errors)?,
            _ => pick(book, cidr, errors)?,
        };
        addresses.extend(address.map(|address| address.to_string()));
    }
    spec["clusterIP"] = addresses.first().map_or(Value::Null, |first| json!(first));
    spec["clusterIPs"] = json!(addresses);
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::V4, Self::V6].into_iter().find(|family| family.name() == text)
    }
}

fn requested(spec: &Value) -> Vec<String> {
    let list = spec["clusterIPs"].as_array();
    let mut requested: Vec<String> =
        list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    if requested.is_empty() {
        requested.extend(spec["clusterIP"].as_str().filter(|text| !text.is_empty()).map(str::to_owned));
    }
    requested
}

/// The families a Service gets, and its policy, as the real server chooses them.
fn families(
    spec: &mut Value,
    requested: &[String],
    headless: bool,
    cidrs: &[IpNet],
    errors: &mut Vec<FieldError>,
) -> Vec<Family> {
    let configured: Vec<Family> = cidrs.iter().map(|cidr| Family::of(cidr.addr())).collect();
    let mut families: Vec<Family> = spec["ipFamilies"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|text| Family::parse(text.as_str()?))
        .collect();
    let asked = families.len().max(requested.len());
    for address in requested.iter().filter_map(|text| text.parse().ok()).skip(families.len()) {
        families.push(Family::of(address));
    }
    let selectorless = headless && spec["selector"].as_object().is_none_or(serde_json::Map::is_empty);
    let policy = match spec["ipFamilyPolicy"].as_str() {
        Some(policy) => policy.to_owned(),
        None if asked > 1 => {
            errors.push(FieldError::invalid(
                "spec.ipFamilyPolicy",
                &json!("SingleStack"),
                "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified",
            ));
            return families;
        }
        None if selectorless => "RequireDualStack".to_owned(),
        None => "SingleStack".to_owned(),
    };
    for (index, family) in families.iter().enumerate().filter(|(_, family)| !configured.contains(family)) {
        let detail = "not configured on this cluster";
        errors.push(FieldError::invalid(format!("spec.ipFamilies[{index}]"), &json!(family.name()), detail));
    }
    if policy == "RequireDualStack" && configured.len() < 2 && !selectorless {
        let detail = "this cluster is not configured for dual-stack services";
        errors.push(FieldError::invalid("spec.ipFamilyPolicy", &json!(policy), detail));
    }
    if families.is_empty() {
        families.extend(configured.first());
    }
    match policy.as_str() {
        "SingleStack" => families.truncate(1),
        _ => {
            let missing: Vec<Family> =
                configured.iter().copied().filter(|family| !families.contains(family)).collect();
            families.extend(missing);
        }
    }
    spec["ipFamilyPolicy"] = json!(policy);
    families
}

fn take(
    book: &Book<'_, '_>,
    address: IpAddr,
    cidr: &IpNet,
    requested: &[String],
    old: Option<&Value>,
    errors: &mut Vec<FieldError>,
) -> Result<Option<IpAddr>> {
    let had = old.is_some_and(|old| held(old).contains(&address.to_string()));
    let mut refuse = |why: String| {
        let detail = format!("failed to allocate IP {address}: {why}");
        errors.push(FieldError::invalid("spec.clusterIPs", &json!(requested), &detail));
    };
    if !had && !usable(cidr, address) {
        refuse("the provided network does not match the current range".to_owned());
        return Ok(None);
    }
    if !book.take(SPACE, &address.to_string())? {
        refuse("provided IP is already allocated".to_owned());
        return Ok(None);
    }
    Ok(Some(address))
}

/// In the range, and neither its first address nor an IPv4 broadcast.
fn usable(cidr: &IpNet, address: IpAddr) -> bool {
    cidr.contains(&address) && address != cidr.network() && (address.is_ipv6() || address != cidr.broadcast())
}

fn pick(book: &Book<'_, '_>, cidr: &IpNet, errors: &mut Vec<FieldError>) -> Result<Option<IpAddr>> {
    let bits = cidr.max_prefix_len() - cidr.prefix_len();
    let size = 1u128.checked_shl(bits.into()).unwrap_or(u128::MAX);
    let random = (0..PICKS).map(|_| rand::random::<u128>() % size);
    for offset in random.chain(1..size.min(SEARCHED)) {
        let address = nth(cidr, offset);
        if usable(cidr, address) && book.take(SPACE, &address.to_string())? {
            return Ok(Some(address));
        }
    }
    errors.push(FieldError::internal("spec.clusterIPs", "failed to allocate a serviceIP: range is full"));
    Ok(None)
}

fn nth(cidr: &IpNet, offset: u128) -> IpAddr {
    match cidr.network() {
        // The offset is below the size of the range, which for IPv4 fits 32 bits.
        IpAddr::V4(base) => IpAddr::V4(Ipv4Addr::from_bits(base.to_bits().wrapping_add(offset as u32))),
        IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from_bits(base.to_bits().wrapping_add(offset))),
    }
}
