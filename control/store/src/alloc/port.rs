//! NodePorts: requested ones, or free ones at random.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Book;
use crate::error::{FieldError, Result};

pub(super) const SPACE: &str = "nodePort";
const RANGE: std::ops::RangeInclusive<u16> = 30_000..=32_767;
const PICKS: usize = 64;

/// The ports that a Service holds, each with its protocol.
pub(super) fn held(service: &Value) -> Vec<String> {
    let ports = service["spec"]["ports"].as_array();
    let item =
        |port: &Value| Some(item(port["nodePort"].as_u64().filter(|port| *port != 0)?, protocol(port)));
    ports.into_iter().flatten().filter_map(item).collect()
}

fn protocol(port: &Value) -> &str {
    port["protocol"].as_str().unwrap_or("TCP")
}

fn item(port: u64, protocol: &str) -> String {
    format!("{port}/{protocol}")
}

/// Sets `nodePort` on every port of a Service that is to have one, and takes it from those that are not.
pub(super) fn admit(book: &Book<'_, '_>, service: &mut Value, errors: &mut Vec<FieldError>) -> Result<()> {
    let spec = &mut service["spec"];
    let wanted = match spec["type"].as_str() {
        Some("NodePort") => true,
        Some("LoadBalancer") => spec["allocateLoadBalancerNodePorts"] != json!(false),
        _ => false,
    };
    let ports = spec.get_mut("ports").and_then(Value::as_array_mut);
    // Ports of one number and different protocols share a NodePort.
    let mut chosen: BTreeMap<i64, u64> = BTreeMap::new();
    for (index, port) in ports.into_iter().flatten().enumerate() {
        let number = port["port"].as_i64().unwrap_or(0);
        let protocol = protocol(port).to_owned();
        match port["nodePort"].as_u64().filter(|port| *port != 0) {
            Some(requested) => {
                take(book, requested, &protocol, index, errors)?;
                chosen.insert(number, requested);
            }
            None if wanted => {
                let shared = chosen.get(&number).copied();
                if let Some(free) = pick(book, shared, &protocol, index, errors)? {
                    port["nodePort"] = json!(free);
                    chosen.insert(number, free);
                }
            }
            None => {
                if let Some(map) = port.as_object_mut() {
                    map.shift_remove("nodePort");
                }
            }
        }
    }
    Ok(())
}

fn take(
    book: &Book<'_, '_>,
    port: u64,
    protocol: &str,
    index: usize,
    errors: &mut Vec<FieldError>,
) -> Result<()> {
    let mut refuse = |why: &str| {
        errors.push(FieldError::invalid(format!("spec.ports[{index}].nodePort"), &json!(port), why));
    };
    if !u16::try_from(port).is_ok_and(|port| RANGE.contains(&port)) {
        refuse(&format!(
            "provided port is not in the valid range. The range of valid ports is {}-{}",
            RANGE.start(),
            RANGE.end()
        ));
    } else if !book.take(SPACE, &item(port, protocol))? {
        refuse("provided port is already allocated");
    }
    Ok(())
}

fn pick(
    book: &Book<'_, '_>,
    shared: Option<u64>,
    protocol: &str,
    index: usize,
    errors: &mut Vec<FieldError>,
) -> Result<Option<u64>> {
    let random = (0..PICKS).map(|_| u64::from(rand::random_range(RANGE)));
    for port in shared.into_iter().chain(random).chain(RANGE.map(u64::from)) {
        if book.take(SPACE, &item(port, protocol))? {
            return Ok(Some(port));
        }
    }
    let why = "failed to allocate a nodePort: range is full";
    errors.push(FieldError::internal(format!("spec.ports[{index}].nodePort"), why));
    Ok(None)
}
