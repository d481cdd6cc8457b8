//! Which certificate is shown for which host that is wanted: the one that was issued last, whatever list of domains that was
//! for. Refuses to know: where certificates come from.

use std::sync::Arc;

use super::entry::Held;
use crate::certificates::Certificate;

/// What is shown.
pub(super) struct Cover {
    /// Each for the hosts that it is shown for, and no others.
    pub(super) certificates: Vec<Arc<Certificate>>,
    /// Which of the spare ones are among them.
    pub(super) used: Vec<bool>,
    /// Hosts that there is none for, with the position of what they are wanted in.
    pub(super) awaited: Vec<(usize, String)>,
}

/// `wanted`: the domains of each list, and the certificate that was issued for just these; `spares`: those that were issued
/// for other lists. Of two for one host the one that begins later is shown.
pub(super) fn cover<'a>(
    wanted: impl Iterator<Item = (&'a [String], Option<&'a Held>)>,
    spares: &'a [Held],
) -> Cover {
    let mut picked: Vec<(&Held, Vec<&str>)> = Vec::new();
    let mut awaited = Vec::new();
    for (position, (domains, own)) in wanted.enumerate() {
        for host in domains {
            let others = spares.iter().filter(|held| held.certificate.hosts.contains(host));
            // Of two that begin together the last is taken: its own.
            let newest = others.chain(own).max_by_key(|held| held.not_before_unix_s);
            let Some(newest) = newest else {
                awaited.push((position, host.clone()));
                continue;
            };
            match picked.iter_mut().rev().find(|(held, _)| std::ptr::eq(*held, newest)) {
                Some((_, hosts)) => hosts.push(host),
                None => picked.push((newest, vec![host])),
            }
        }
    }
    let is_used = |spare: &Held| picked.iter().any(|(held, _)| std::ptr::eq(*held, spare));
    Cover {
        used: spares.iter().map(is_used).collect(),
        certificates: picked
            .iter()
            .map(|(held, hosts)| narrowed(&held.certificate, hosts))
            .collect(),
        awaited,
    }
}

fn narrowed(certificate: &Arc<Certificate>, hosts: &[&str]) -> Arc<Certificate> {
    let is_shown = |host: &&String| hosts.contains(&host.as_str());
    if certificate.hosts.iter().all(|host| is_shown(&host)) {
        return certificate.clone();
    }
    let hosts: Vec<_> = certificate.hosts.iter().filter(is_shown).cloned().collect();
    Arc::new(Certificate {
        label: hosts.first().cloned().unwrap_or_default(),
        hosts,
        not_after_unix_s: certificate.not_after_unix_s,
        key: certificate.key.clone(),
        staple: None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::entry::held_for;
    use super::*;

    fn list(hosts: &[&str]) -> Vec<String> {
        hosts.iter().map(|host| (*host).to_owned()).collect()
    }

    type Told = (Vec<(i64, Vec<String>)>, Vec<(usize, String)>, Vec<bool>);

    /// What is shown, as the beginning of its time with its hosts; what is awaited; what is used.
    fn told(wanted: &[(&[&str], Option<&Held>)], spares: &[Held]) -> Told {
        let lists: Vec<_> = wanted.iter().map(|(hosts, own)| (list(hosts), *own)).collect();
        let Cover { certificates, used, awaited } =
            cover(lists.iter().map(|(hosts, own)| (&**hosts, *own)), spares);
        let begins = |shown: &Certificate| {
            let own = wanted.iter().filter_map(|(_, own)| *own);
            let mut all = own.chain(spares);
            let of = all.find(|held| Arc::ptr_eq(&held.certificate.key, &shown.key));
            of.expect("one of them").not_before_unix_s
        };
        let shown = certificates.iter().map(|one| {
            assert_eq!(one.label, one.hosts[0]);
            (begins(one), one.hosts.clone())
        });
        (shown.collect(), awaited, used)
    }

    #[test]
    fn a_host_is_shown_what_was_issued_last_whatever_its_list() {
        let (a, ab) = (|begin| held_for(&["a.x"], begin), held_for(&["a.x", "b.x"], 20));
        // Its list has grown: what is there stays, for the host that it is for.
        let (shown, awaited, used) = told(&[(&["a.x", "b.x"], None)], &[a(10)]);
        assert_eq!((shown, used), (vec![(10, list(&["a.x"]))], vec![true]));
        assert_eq!(awaited, [(0, "b.x".to_owned())]);
        // It was divided: one for both, once.
        let spares = [ab];
        let (shown, awaited, used) = told(&[(&["b.x"], None), (&["a.x"], None)], &spares);
        assert_eq!((shown, awaited, used), (vec![(20, list(&["a.x", "b.x"]))], vec![], vec![true]));
        // One of the parts has its own, which is newer.
        let own = a(30);
        let (shown, awaited, used) = told(&[(&["b.x"], None), (&["a.x"], Some(&own))], &spares);
        assert_eq!(shown, [(20, list(&["b.x"])), (30, list(&["a.x"]))]);
        assert_eq!((awaited, used), (vec![], vec![true]));
        // A list that has come back has an old one.
        let own = a(10);
        let (shown, _, used) = told(&[(&["a.x"], Some(&own))], &spares);
        assert_eq!((shown, used), (vec![(20, list(&["a.x"]))], vec![true]));
        // Nobody wants it.
        let own = a(20);
        let (shown, awaited, used) = told(&[(&["a.x"], Some(&own)), (&["c.x"], None)], &spares);
        assert_eq!((shown, used), (vec![(20, list(&["a.x"]))], vec![false]));
        assert_eq!(awaited, [(1, "c.x".to_owned())]);
    }
}
