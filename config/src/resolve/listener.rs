//! `[[listeners]]`

use super::{Names, Read};
use crate::ids::ListenerName;
use crate::model::Listener;
use crate::reader::{Item, Site, Table};
use crate::values;

/// A listener and where its address stands.
pub(super) type ListenerRead = Read<Listener, Site>;

#[derive(Clone, Copy, PartialEq)]
enum Protocol {
    Http1,
    H2c,
}

pub(super) fn read(table: &Table<'_>, names: &mut Names) -> ListenerRead {
    let name = names.declare(table.required("name"));
    let address = table.required("address").and_then(|item| item.parsed(values::socket_address));
    let protocols = table.or("protocols", vec![Protocol::Http1], protocols);
    let listener = Listener {
        name: ListenerName::new(&name),
        address: address.unwrap_or_else(|| ([0, 0, 0, 0], 0).into()),
        http1: protocols.contains(&Protocol::Http1),
        h2c: protocols.contains(&Protocol::H2c),
        trusted_proxies: table.or("trusted_proxies", Vec::new(), |item| {
            Some(item.list(|item| {
                let (network, sloppy) = item.parsed(values::network)?;
                if sloppy {
                    let message = format!("has bits set behind its prefix; taken as \"{network}\"");
                    item.site().warning(item.cx, message);
                }
                Some(network)
            }))
        }),
    };
    Read { value: listener, notes: table.site_of("address") }
}

fn protocols(item: &Item<'_>) -> Option<Vec<Protocol>> {
    let known = [("http1", Protocol::Http1), ("h2c", Protocol::H2c)];
    let items = item.items("an array");
    if items.is_empty() && item.is_array() {
        return item.fail("a listener needs a protocol: \"http1\", \"h2c\"");
    }
    Some(items.iter().filter_map(|item| item.choice(&known)).collect())
}
