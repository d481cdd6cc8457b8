//! Addresses all over the world that the demo's requests come from.
//!
//! Promises: real public addresses of many countries, more of them where more people are online; the
//! embedded database agrees with every line. Refuses to know: where their requests go.

use std::net::IpAddr;

use anyhow::{Context, anyhow};
use meridian_geoip::CountryCode;

static LIST: &str = include_str!("clients.csv");

/// Somebody who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DemoClient {
    pub(crate) address: IpAddr,
    pub(crate) country: CountryCode,
}

/// All of them.
///
/// # Errors
/// When the program was built with a broken list.
pub(crate) fn all_clients() -> anyhow::Result<Vec<DemoClient>> {
    let lines = LIST.lines().filter(|line| !line.starts_with('#')).skip(1);
    lines.map(|line| parse(line).with_context(|| format!("list of clients: {line}"))).collect()
}

fn parse(line: &str) -> anyhow::Result<DemoClient> {
    let (address, country) = line.split_once(',').context("not ADDRESS,COUNTRY")?;
    let country = country.parse().map_err(|_| anyhow!("not a country"))?;
    Ok(DemoClient { address: address.parse()?, country })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use meridian_geoip::GeoDatabase;

    use super::*;

    #[test]
    fn the_embedded_database_agrees_with_the_list() {
        let clients = all_clients().unwrap();
        let database = GeoDatabase::embedded().unwrap();
        for client in &clients {
            let country = database.place(client.address).country;
            assert_eq!(country, Some(client.country), "{}", client.address);
        }
        let countries: HashSet<_> = clients.iter().map(|client| client.country).collect();
        let addresses: HashSet<_> = clients.iter().map(|client| client.address).collect();
        assert!(countries.len() >= 60 && addresses.len() >= 150);
        assert_eq!(addresses.len(), clients.len());
    }
}
