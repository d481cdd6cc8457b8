//! Texts that are values: durations, sizes, networks, status ranges, `${ENV}`. Each way of writing is read and
//! printed here. Refuses to know: which key holds the value.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use crate::ids::EndpointAddress;
use crate::names;

/// Nanoseconds of each unit of time, the longest first.
const TIMES: &[(&str, u128)] =
    &[("h", 3_600_000_000_000), ("m", 60_000_000_000), ("s", 1_000_000_000), ("ms", 1_000_000)];

/// Bytes of each unit of size, the largest first; the decimal ones are read, never printed.
const SIZES: &[(&str, u128)] = &[
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("kB", 1_000),
    ("B", 1),
];

/// Reads `250ms`, `1.5s`, `1m`, `2h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    scaled(text, TIMES)
        .and_then(|nanos| Some(Duration::from_nanos(u64::try_from(nanos).ok()?)))
        .ok_or_else(|| {
            format!(
                "{text:?} is not a duration; write a number with ms, s, m or h, such as \"250ms\""
            )
        })
}

/// Writes what [`duration`] reads, in the largest unit that needs no fraction.
pub(crate) fn show_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".into();
    }
    match TIMES.iter().find(|(_, scale)| nanos.is_multiple_of(*scale)) {
        Some((unit, scale)) => format!("{}{unit}", nanos / scale),
        None => {
            let text = format!("{}.{:06}", nanos / 1_000_000, nanos % 1_000_000);
            format!("{}ms", text.trim_end_matches('0'))
        }
    }
}

/// Reads `512B`, `64KiB`, `1MiB`, `64KB`; the result is in bytes.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    scaled(text, SIZES).and_then(|bytes| u64::try_from(bytes).ok()).ok_or_else(|| {
        format!("{text:?} is not a size; write a number with B, KiB, MiB or GiB, such as \"64KiB\"")
    })
}

/// Writes what [`size`] reads.
pub(crate) fn show_size(bytes: u64) -> String {
    let bytes = u128::from(bytes);
    let binary = || SIZES.iter().filter(|(unit, _)| unit.contains('i'));
    match binary().find(|(_, scale)| bytes > 0 && bytes.is_multiple_of(*scale)) {
        Some((unit, scale)) => format!("{}{unit}", bytes / scale),
        None => format!("{bytes}B"),
    }
}

/// A decimal number followed by a unit, in terms of the unit of scale 1; `None` if it is not that or has a
/// fraction of a nanosecond or a byte.
fn scaled(text: &str, units: &[(&str, u128)]) -> Option<u128> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(end);
    let (_, scale) = units.iter().find(|(name, _)| *name == unit)?;
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) if (1..=9).contains(&fraction.len()) => (whole, fraction),
        Some(_) => return None,
        None => (number, "0"),
    };
    let whole = u128::from(whole.parse::<u64>().ok()?).checked_mul(*scale)?;
    let tenths = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let fraction = u128::from(fraction.parse::<u64>().ok()?).checked_mul(*scale)?;
    fraction.is_multiple_of(tenths).then(|| whole.checked_add(fraction / tenths))?
}

/// Replaces `${NAME}` and `${NAME:-default}` by the environment's values, `$${` by `${`.
pub(crate) fn expand<'t>(
    text: &'t str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Cow<'t, str>, String> {
    if !text.contains("${") {
        return Ok(Cow::Borrowed(text));
    }
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        if let Some(before) = rest[..start].strip_suffix('$') {
            expanded.push_str(before);
            expanded.push_str("${");
            rest = &rest[start + 2..];
            continue;
        }
        expanded.push_str(&rest[..start]);
        let Some(length) = rest[start..].find('}') else {
            return Err("\"${\" without \"}\"; write \"$${\" for the characters themselves".into());
        };
        expanded.push_str(&variable(&rest[start + 2..start + length], env)?);
        rest = &rest[start + length + 1..];
    }
    expanded.push_str(rest);
    Ok(Cow::Owned(expanded))
}

fn variable(inside: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(legal) || name.starts_with(|c: char| c.is_ascii_digit())
    {
        return Err(format!("{name:?} is not a name of an environment variable"));
    }
    match (env(name), default) {
        (Some(value), Some(default)) if value.is_empty() => Ok(default.into()),
        (Some(value), _) => Ok(value),
        (None, Some(default)) => Ok(default.into()),
        (None, None) => Err(format!(
            "environment variable {name} is not set; \"${{{name}:-default}}\" would give a default"
        )),
    }
}

/// Makes [`expand`] give the text back unchanged.
pub(crate) fn escape(text: &str) -> String {
    text.replace("${", "$${")
}

/// Reads `10.0.0.0/8`, `2001:db8::/32` or one address. The flag: bits behind the prefix were set and are dropped.
pub(crate) fn network(text: &str) -> Result<(IpNet, bool), String> {
    let network = text
        .parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| format!("{text:?} is not a network such as \"10.0.0.0/8\""))?;
    Ok((network.trunc(), network.trunc() != network))
}

/// Reads `IP:port`; port 0 lets the system choose.
pub(crate) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        let hint = match text.strip_prefix(':') {
            Some(port) => {
                format!("; for every address write \"0.0.0.0:{port}\" or \"[::]:{port}\"")
            }
            None => String::new(),
        };
        format!("{text:?} is not an IP address with a port, such as \"127.0.0.1:8080\"{hint}")
    })
}

/// Reads `IP:port` or `name:port`; names become lower case.
pub(crate) fn endpoint_address(text: &str) -> Result<EndpointAddress, String> {
    let address = match text.parse::<SocketAddr>() {
        Ok(address) => EndpointAddress::Ip(address),
        Err(_) => {
            let what = || format!("{text:?} is not \"IP:port\" or \"name:port\"");
            let (name, port) = text.rsplit_once(':').ok_or_else(what)?;
            let name = name.to_ascii_lowercase();
            let last = name.rsplit('.').next().unwrap_or_default();
            if last.bytes().all(|b| b.is_ascii_digit()) || name.contains([':', '[', ']']) {
                return Err(what());
            }
            names::host(&name).map_err(|why| format!("{}: {why}", what()))?;
            let port = port.parse().map_err(|_| what())?;
            EndpointAddress::Name(name.as_str().into(), port)
        }
    };
    match address {
        EndpointAddress::Ip(ip) if ip.port() == 0 => Err(format!("{text:?} has port 0")),
        EndpointAddress::Name(_, 0) => Err(format!("{text:?} has port 0")),
        address => Ok(address),
    }
}

/// Reads `200-299` or `204`; final status codes only.
pub(crate) fn status_range(text: &str) -> Result<(u16, u16), String> {
    let what =
        || format!("{text:?} is not a status such as \"204\" or a range such as \"200-299\"");
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let code = |text: &str| text.parse::<u16>().map_err(|_| what());
    let (low, high) = (code(low)?, code(high)?);
    if !(200..=599).contains(&low) || !(low..=599).contains(&high) {
        return Err(format!("{}; from 200 to 599, the lower one first", what()));
    }
    Ok((low, high))
}

/// Writes what [`status_range`] reads.
pub(crate) fn show_status_range((low, high): (u16, u16)) -> String {
    if low == high { low.to_string() } else { format!("{low}-{high}") }
}

#[cfg(test)]
#[path = "values_tests.rs"]
mod tests;
