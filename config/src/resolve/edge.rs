//! `[edge]`, `[limits]`, `[shutdown]`, `[admin]`, `[geoip]`, `[access_log]`.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{MOST_AT_ONCE, Names, Read, at_least, region};
use crate::model::{
    AccessLog, Admin, AdminAddress, AdminRole, AdminToken, Edge, Limits, LogFormat, LogOutput,
    RegionIndex, Shutdown,
};
use crate::names;
use crate::reader::{Item, Site, Table};
use crate::secrets::SessionSecrets;
use crate::suggest::nearest;
use crate::values;

/// A longer token file is not one.
const TOKEN_BYTES: u64 = 4096;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

pub(super) fn read(table: &Table<'_>, names: &Names, regions: &[region::RegionRead]) -> Edge {
    let region = table.item("region").and_then(|item| names.resolve(&item));
    let own = table.item("coordinates").and_then(|item| region::coordinates(&item));
    let of_region = region.and_then(|index| regions.get(index)).and_then(|r| r.value.coordinates);
    let id = table
        .item("id")
        .and_then(|item| item.parsed(|text| names::id(text).map(|()| text.to_owned())));
    Edge {
        id: id.unwrap_or_else(host_name),
        region: region.and_then(|index| u8::try_from(index).ok()).map(RegionIndex),
        coordinates: own.or(of_region),
        state_dir: table
            .item("state_dir")
            .and_then(|item| file_path(&item))
            .unwrap_or_else(|| table.cx.resolve("meridian-state")),
        worker_threads: table.or("worker_threads", 0, |item| item.whole(0..=1024)),
        max_connections: table.or("max_connections", 65_536, |item| item.whole(1..=16_777_216)),
        max_requests: table.item("max_requests").and_then(|item| item.whole(MOST_AT_ONCE)),
        memory: table.or("memory", None, |item| match item.word().as_deref() {
            Some("auto") => Some(None),
            _ => item.size(64 * MIB..=1 << 50).map(Some),
        }),
        splice: table.or("splice", true, |item| item.flag()),
        compress_memory: table.or("compress_memory", 64 * MIB, |item| item.size(MIB..=1 << 50)),
        session_secret_file: session_secret_file(table),
    }
}

/// A file of keys that can be used; `""`: none.
fn session_secret_file(table: &Table<'_>) -> Option<PathBuf> {
    let item = table.item("session_secret_file")?;
    if item.word().as_deref() == Some("") {
        return None;
    }
    let path = file_path(&item)?;
    match SessionSecrets::read(&path) {
        Ok(_) => Some(path),
        Err(why) => item.fail(format!("{}: {why}", path.display())),
    }
}

/// The machine's name, made a legal id.
fn host_name() -> String {
    let system = rustix::system::uname();
    let name = system.nodename().to_string_lossy();
    let legal = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let id: String = name.chars().take(128).map(legal).collect();
    if id.is_empty() { "edge".into() } else { id }
}

/// A path that is not empty, made absolute.
pub(super) fn file_path(item: &Item<'_>) -> Option<PathBuf> {
    let text = item.text()?;
    if text.is_empty() || text.contains('\0') {
        return item.fail("a path is not empty");
    }
    Some(item.cx.resolve(&text))
}

pub(super) fn limits(table: &Table<'_>) -> Limits {
    let bytes = |key, default: u64, low, high| {
        usize::try_from(table.or(key, default, |item| item.size(low..=high))).unwrap_or(usize::MAX)
    };
    let time = |key, seconds| {
        table.or(key, Duration::from_secs(seconds), |item| item.duration(at_least(1)))
    };
    let at_once = |key| table.item(key).and_then(|item| item.whole(MOST_AT_ONCE));
    let header_bytes = bytes("header_bytes", 64 * KIB, KIB, MIB);
    let line_default = (header_bytes as u64).min(8 * KIB);
    let limits = Limits {
        header_bytes,
        headers: table.or("headers", 128, |item| item.whole(1..=1000)),
        request_line_bytes: bytes("request_line_bytes", line_default, 256, 64 * KIB),
        body_bytes: table.or("body_bytes", 1 << 30, |item| item.size(0..=1 << 50)),
        header_timeout: time("header_timeout", 10),
        keepalive_timeout: time("keepalive_timeout", 75),
        requests_per_connection: table
            .or("requests_per_connection", 100_000, |item| item.whole(1..=u32::MAX)),
        h2_streams: table.or("h2_streams", 100, |item| item.whole(1..=10_000)),
        connections_per_client: at_once("connections_per_client"),
        requests_per_client: at_once("requests_per_client"),
        min_rate: table.or("min_rate", 512, |item| item.size(0..=GIB)),
    };
    if limits.request_line_bytes > limits.header_bytes {
        table.site_of("request_line_bytes").error(
            table.cx,
            format!(
                "is above header_bytes, {}, which counts the request line too",
                values::show_size(limits.header_bytes as u64)
            ),
        );
    }
    limits
}

pub(super) fn shutdown(table: &Table<'_>) -> Shutdown {
    let time = |key, seconds| {
        table.or(key, Duration::from_secs(seconds), |item| item.duration(at_least(0)))
    };
    Shutdown { lame_duck: time("lame_duck", 5), grace: time("grace", 25) }
}

/// The admin section and where its address stands.
pub(super) type AdminRead = Read<Admin, Site>;

pub(super) fn admin(table: &Table<'_>) -> AdminRead {
    let default = AdminAddress::Tcp(([127, 0, 0, 1], 9901).into());
    let mut files = HashMap::new();
    let tokens = table.each("tokens", |token| admin_token(token, &mut files));
    let address = table.or("address", default, admin_address);
    let site = table.site_of("address");
    if let (AdminAddress::Tcp(tcp), true) = (&address, tokens.is_empty()) {
        let tcp = tcp.ip().to_canonical();
        if tcp.is_unspecified() {
            let message = "listening on every address needs tokens; without them whoever reaches \
                           it may do everything";
            site.error(table.cx, message);
        } else if !tcp.is_loopback() {
            let message = "without tokens whoever reaches this address may do everything";
            site.warning(table.cx, message);
        }
    }
    let tokens = tokens.into_iter().flatten().collect();
    Read { value: Admin { address, tokens }, notes: site }
}

fn admin_address(item: &Item<'_>) -> Option<AdminAddress> {
    let text = item.text()?;
    let Some(path) = text.strip_prefix("unix:") else {
        return item.parsed(values::socket_address).map(AdminAddress::Tcp);
    };
    if path.is_empty() || path.contains('\0') {
        return item.fail("\"unix:\" is followed by the socket's path");
    }
    Some(AdminAddress::Unix(item.cx.resolve(path)))
}

fn admin_token(table: &Table<'_>, seen: &mut HashMap<String, String>) -> Option<AdminToken> {
    let roles =
        [("read", AdminRole::Read), ("operator", AdminRole::Operator), ("admin", AdminRole::Admin)];
    let role = table.required("role").and_then(|item| item.choice(&roles));
    let file = table.required("token_file")?;
    let token_file = file_path(&file)?;
    let secret = match read_token(&token_file) {
        Ok(secret) => secret,
        Err(why) => return file.fail(format!("{}: {why}", token_file.display())),
    };
    let path = file.site().path().to_owned();
    if let Some(first) = seen.insert(secret.clone(), path) {
        return file.fail(format!("holds the same token as {first}"));
    }
    Some(AdminToken { role: role?, token_file, secret })
}

pub(crate) fn read_token(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read =
        File::open(path).and_then(|file| file.take(TOKEN_BYTES + 1).read_to_string(&mut text));
    match read {
        Err(error) => return Err(format!("cannot be read: {error}")),
        Ok(length) if length as u64 > TOKEN_BYTES => return Err("is longer than 4 KiB".into()),
        Ok(_) => {}
    }
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("does not hold one token of visible ASCII characters".into());
    }
    Ok(token.to_owned())
}

pub(super) fn geo_database(table: &Table<'_>) -> Option<PathBuf> {
    let item = table.item("database")?;
    if item.word().as_deref() == Some("") { None } else { file_path(&item) }
}

pub(super) fn access_log(table: &Table<'_>) -> AccessLog {
    let formats = [("json", LogFormat::Json), ("combined", LogFormat::Combined)];
    AccessLog {
        output: table.or("output", LogOutput::Stdout, log_output),
        format: table.or("format", LogFormat::Json, |item| item.choice(&formats)),
    }
}

fn log_output(item: &Item<'_>) -> Option<LogOutput> {
    let text = item.text()?;
    match &*text {
        "stdout" => Some(LogOutput::Stdout),
        "off" => Some(LogOutput::Off),
        file => match nearest(file, ["stdout", "off", "stderr"]) {
            Some("stderr") => item.fail("access lines go to \"stdout\", \"off\" or a file"),
            Some(word) => item.fail(format!(
                "unknown value {file:?}; did you mean {word:?}? (a file is \"./{file}\")"
            )),
            None => file_path(item).map(LogOutput::File),
        },
    }
}
