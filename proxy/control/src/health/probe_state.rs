//! Rise and fall: when a row of probe results changes an endpoint's health.

use meridian_routing::EndpointHealth;

/// Counts results in a row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProbeState {
    health: EndpointHealth,
    rise: u32,
    fall: u32,
    passes: u32,
    failures: u32,
}

impl ProbeState {
    /// Starts from `health`; `fall` failures in a row make it unhealthy, `rise` passes healthy (each at least 1).
    pub(crate) fn new(health: EndpointHealth, rise: u32, fall: u32) -> Self {
        Self { health, rise: rise.max(1), fall: fall.max(1), passes: 0, failures: 0 }
    }

    /// Takes one result and says what the endpoint is now.
    pub(crate) fn record(&mut self, passed: bool) -> EndpointHealth {
        if passed {
            self.failures = 0;
            self.passes = self.passes.saturating_add(1);
            if self.passes >= self.rise {
                self.health = EndpointHealth::Healthy;
            }
        } else {
            self.passes = 0;
            self.failures = self.failures.saturating_add(1);
            if self.failures >= self.fall {
                self.health = EndpointHealth::Unhealthy;
            }
        }
        self.health
    }

    /// What it is now.
    pub(crate) fn health(&self) -> EndpointHealth {
        self.health
    }

    /// Whether the next results may change it: then probes come faster.
    pub(crate) fn changing(&self) -> bool {
        match self.health {
            EndpointHealth::Unknown => true,
            EndpointHealth::Healthy => self.failures > 0,
            EndpointHealth::Unhealthy => self.passes > 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use EndpointHealth::{Healthy, Unhealthy, Unknown};

    use super::*;

    fn run(state: &mut ProbeState, results: &str) -> EndpointHealth {
        results.chars().for_each(|c| {
            state.record(c == '+');
        });
        state.health()
    }

    #[test]
    fn it_takes_a_row_of_equal_results() {
        let mut state = ProbeState::new(Unknown, 2, 3);
        assert_eq!(run(&mut state, "+-+--"), Unknown);
        assert!(state.changing());
        assert_eq!(run(&mut state, "++"), Healthy);
        assert!(!state.changing());
        assert_eq!(run(&mut state, "--+--"), Healthy);
        assert!(state.changing());
        assert_eq!(run(&mut state, "-"), Unhealthy);
        assert!(!state.changing());
        assert_eq!(run(&mut state, "+-+"), Unhealthy);
        assert!(state.changing());
        assert_eq!(run(&mut state, "+"), Healthy);
    }

    #[test]
    fn thresholds_of_zero_count_as_one() {
        let mut state = ProbeState::new(Unknown, 0, 0);
        assert_eq!(state.record(false), Unhealthy);
        assert_eq!(state.record(true), Healthy);
    }
}
