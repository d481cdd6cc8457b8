//! What a reload must refuse: keys that take effect only at start.

use crate::model::{Admin, AdminToken, Config, Listener};

impl Config {
    /// Names the static keys in which `new` differs, in the order of the file; empty if a reload may go on.
    /// Listeners are told apart by name.
    pub fn static_changes(&self, new: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        for (path, changed) in [
            ("edge.state_dir", self.edge.state_dir != new.edge.state_dir),
            ("edge.worker_threads", self.edge.worker_threads != new.edge.worker_threads),
            ("history.entries", self.history.entries != new.history.entries),
            ("history.file_bytes", self.history.file_bytes != new.history.file_bytes),
        ] {
            if changed {
                changes.push(path.to_owned());
            }
        }
        listener_changes(&self.listeners, &new.listeners, &mut changes);
        admin_changes(&self.admin, &new.admin, &mut changes);
        changes
    }
}

fn listener_changes(old: &[Listener], new: &[Listener], changes: &mut Vec<String>) {
    for listener in old.iter().filter(|old| !new.iter().any(|new| new.name == old.name)) {
        changes.push(format!("listeners: \"{}\" is gone", listener.name));
    }
    for (index, new) in new.iter().enumerate() {
        let Some(old) = old.iter().find(|old| old.name == new.name) else {
            changes.push(format!("listeners[{index}]: \"{}\" is new", new.name));
            continue;
        };
        for (key, changed) in [
            ("address", old.address != new.address),
            ("protocols", (old.http1, old.h2, old.h2c) != (new.http1, new.h2, new.h2c)),
            ("proxy_protocol", old.proxy_protocol != new.proxy_protocol),
            ("trusted_proxies", old.trusted_proxies != new.trusted_proxies),
            ("redirect_https", old.redirect_https != new.redirect_https),
            ("hsts", old.hsts != new.hsts),
            ("tls", old.tls.is_some() != new.tls.is_some()),
        ] {
            if changed {
                changes.push(format!("listeners[{index}].{key}"));
            }
        }
        // Which certificates there are may change: they are read again anyway.
        let (Some(old), Some(new)) = (&old.tls, &new.tls) else { continue };
        for (key, changed) in [
            ("min_version", old.min_version != new.min_version),
            ("session_tickets", old.session_tickets != new.session_tickets),
            ("handshakes", old.handshakes != new.handshakes),
            ("client_auth", old.client_auth != new.client_auth),
        ] {
            if changed {
                changes.push(format!("listeners[{index}].tls.{key}"));
            }
        }
    }
}

fn admin_changes(old: &Admin, new: &Admin, changes: &mut Vec<String>) {
    if old.address != new.address {
        changes.push("admin.address".into());
    }
    // A rotated token is no reason to refuse a reload: the running process keeps the one it has read.
    let place = |token: &AdminToken| (token.role, token.token_file.clone());
    if !old.tokens.iter().map(place).eq(new.tokens.iter().map(place)) {
        changes.push("admin.tokens".into());
    }
}
