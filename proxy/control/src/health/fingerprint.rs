//! Tells probe settings apart, so that a late report about other settings is recognized.

use std::hash::{DefaultHasher, Hash, Hasher};

use meridian_config::{HealthKind, ReplicationSource, Service};

/// Identifies the settings of a probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ProbeFingerprint {
    question: u64,
    timing: u64,
}

impl ProbeFingerprint {
    /// Of a service's probes.
    pub fn of(service: &Service) -> Self {
        let health = &service.health;
        let source = match service.replication.source {
            ReplicationSource::None => 0,
            ReplicationSource::Headers => 1,
            _ => 2,
        };
        let timing = (health.interval, health.fast_interval, health.timeout);
        let counts = (health.jitter.to_bits(), health.fall, health.rise, source);
        let tls = service.tls.as_ref().map(|tls| (tls.server_name.clone(), tls.files.id));
        let spoken = (service.protocol as u8, service.send_proxy_protocol);
        Self {
            question: hash((question(&health.kind), tls, spoken)),
            timing: hash((timing, counts)),
        }
    }

    /// Whether both ask the endpoint the same, though perhaps at another pace.
    pub fn same_question(self, other: Self) -> bool {
        self.question == other.question
    }
}

/// What is asked of the endpoint and which answers pass.
fn question(kind: &HealthKind) -> impl Hash {
    match kind {
        HealthKind::Http { path, host, expect_status, expect_body } => {
            (1, Some((path.clone(), host.clone(), expect_status.clone(), expect_body.clone())))
        }
        HealthKind::Tcp => (2, None),
        HealthKind::Grpc => (3, None),
        HealthKind::None => (4, None),
    }
}

fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
