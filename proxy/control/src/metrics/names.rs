//! Every metric's name and help, in the order of the page.

/// Name and help of a metric.
pub(crate) type Named = (&'static str, &'static str);

pub(crate) const REQUESTS: Named = (
    "meridian_requests_total",
    "Finished requests; an empty region: refused before one was chosen; an empty route: none matched.",
);
pub(crate) const REQUEST_DURATION: Named = (
    "meridian_request_duration_seconds",
    "From the first byte of a request to the last of its answer.",
);
pub(crate) const UPSTREAM_DURATION: Named = (
    "meridian_upstream_duration_seconds",
    "From sending a request to an endpoint to the head of its answer.",
);
pub(crate) const IN_FLIGHT: Named = ("meridian_in_flight", "Requests in flight from this edge.");
pub(crate) const WAITING: Named = (
    "meridian_queue_waiting",
    "Requests that wait for room at the endpoints of a region; only where they have a cap.",
);
pub(crate) const ENDPOINT_LIMIT: Named = (
    "meridian_endpoint_limit",
    "Requests that the endpoint may have in flight from this edge; only where there is a cap.",
);
pub(crate) const ENDPOINT_UP: Named =
    ("meridian_endpoint_up", "Health by active checks: 1 healthy, 0 not; absent until judged.");
pub(crate) const ENDPOINT_EJECTED: Named = (
    "meridian_endpoint_ejected",
    "Whether traffic has put the endpoint out: 1, or 0; ejected ones serve only when nothing else does.",
);
pub(crate) const REPORT_FAULTS: Named = (
    "meridian_report_faults_total",
    "Answers to questions for role, epoch, position and lag that were of no use; services say why.",
);
pub(crate) const EJECTIONS: Named = (
    "meridian_ejections_total",
    "Ejections by cause: connection-failures, consecutive-5xx, success-ratio, trial (failed).",
);
pub(crate) const PROBES: Named =
    ("meridian_health_probes_total", "Health probes by result: passed, failed, void.");
pub(crate) const ROUND_TRIP: Named = (
    "meridian_region_round_trip_seconds",
    "Round trip that ranking uses: measured, or estimated from distance before that.",
);
pub(crate) const REFUSALS: Named = (
    "meridian_refusals_total",
    "Requests that policy or a cap turned down, by the filter that left nothing.",
);
pub(crate) const AFFINITY: Named = (
    "meridian_affinity_total",
    "Requests on routes with affinity: kept, absent, malformed, forged, expired, foreign, gone, yielded.",
);
pub(crate) const SESSION_READS: Named = (
    "meridian_session_reads_total",
    "Reads with a session token: replica, waited (for one), primary-anyway, primary, other-epoch, no-position, refused, refuted.",
);
pub(crate) const SESSION_TOKEN_FAULTS: Named = (
    "meridian_session_token_faults_total",
    "Session tokens that are not as they should be: malformed, forged, expired, foreign, replayed, too-many.",
);
pub(crate) const DECISIONS: Named = ("meridian_decisions_total", "Decisions by region and reason.");
pub(crate) const LAG: Named =
    ("meridian_replication_lag_seconds", "Replication lag as last reported.");
pub(crate) const LAG_AGE: Named =
    ("meridian_replication_lag_sample_age_seconds", "Time since the lag was reported.");
pub(crate) const BEHIND: Named = (
    "meridian_replication_behind",
    "How far the region's position is behind the primary's, in the application's unit (bytes of an LSN).",
);
pub(crate) const POSITION: Named = (
    "meridian_replication_position",
    "Lowest known position of the region's endpoints, in the epoch in force.",
);
pub(crate) const PRIMARY_EPOCH: Named = (
    "meridian_primary_epoch",
    "Highest epoch that is known of the service's primary; 0: nobody has said one.",
);
pub(crate) const PRIMARY_STATE: Named = (
    "meridian_primary_state",
    "1 for what is known of the service's primary: settled, unknown, contested, moving.",
);
pub(crate) const PRIMARY: Named = (
    "meridian_primary",
    "1 for the region that is the service's primary, 0 for its other regions.",
);
pub(crate) const RETRIES: Named =
    ("meridian_retries_total", "Further attempts after a failed one.");
pub(crate) const RETRIES_SUPPRESSED: Named =
    ("meridian_retries_suppressed_total", "Failed attempts that were not repeated.");
pub(crate) const PARKED: Named = (
    "meridian_parked_requests",
    "Requests that wait for their service to have a primary; services that may get another one.",
);
pub(crate) const PARKED_BYTES: Named =
    ("meridian_parked_bytes", "Bytes held of the requests that wait for a primary.");
pub(crate) const PARKED_TOTAL: Named = (
    "meridian_parked_requests_total",
    "Waits for a primary by outcome: released, time, full, contested, refused, gone.",
);
pub(crate) const PARKED_TIME: Named = (
    "meridian_parked_seconds",
    "How long requests waited for a primary, but for those whose client went away.",
);
pub(crate) const UPSTREAM_HANDSHAKES: Named = (
    "meridian_upstream_handshakes_total",
    "TLS handshakes of requests with endpoints: full, resumed, unverified (the certificate is not good), failed.",
);
pub(crate) const HEDGES: Named = (
    "meridian_hedges_total",
    "Late reads on routes that hedge, by outcome: won, lost, failed, and not sent twice: budget, no-endpoint.",
);
pub(crate) const COMPRESSED: Named = (
    "meridian_compressed_responses_total",
    "Answers that this edge compressed, by algorithm: zstd, br, gzip.",
);
pub(crate) const COMPRESSION_BYTES: Named = (
    "meridian_compression_bytes_total",
    "Bytes of answers that this edge compressed: in (as endpoints sent them), out (as clients were given them).",
);
pub(crate) const COMPRESSION_SKIPPED: Named = (
    "meridian_compression_skipped_total",
    "Answers passed on as they were, because compressors held as much as edge.compress_memory.",
);
pub(crate) const CONNECTIONS: Named = ("meridian_connections", "Open client connections.");
pub(crate) const CONNECTIONS_REFUSED: Named = (
    "meridian_connections_refused_total",
    "Connections turned away by reason: edge (max_connections, or open files), client (connections_per_client), \
     memory, proxy-peer (not trusted with the PROXY protocol), proxy-header (none, or not a good one), \
     handshake-rate, handshakes, client-handshake-rate, client-handshakes (tls.handshakes).",
);
pub(crate) const LOG_DROPPED: Named = (
    "meridian_access_log_dropped_total",
    "Access-log lines dropped because their writer could not keep up.",
);
pub(crate) const GENERATION: Named =
    ("meridian_table_generation", "Generation of the routing table in force.");
pub(crate) const OVERRIDES: Named = ("meridian_overrides", "Overrides of the operator in force.");
pub(crate) const RELOAD_SUCCESS: Named = (
    "meridian_config_last_reload_success",
    "Whether the configuration file is the one in force: 1, or 0 if it was refused.",
);
pub(crate) const RELOAD_TIME: Named = (
    "meridian_config_last_reload_timestamp_seconds",
    "When the configuration was last read, well or not.",
);
pub(crate) const RELOADS: Named =
    ("meridian_config_reloads_total", "Reloads by result: success, failure, unchanged.");
pub(crate) const GEO_BUILD: Named =
    ("meridian_geo_database_build_timestamp_seconds", "When the geo database in force was made.");
pub(crate) const GEO_FAILURES: Named = (
    "meridian_geo_database_reload_failures_total",
    "Geo database files that could not replace the one in force.",
);
pub(crate) const CERTIFICATE_EXPIRY: Named = (
    "meridian_certificate_expiry_timestamp_seconds",
    "When a certificate in force expires, Unix time; by the first host that it names, else its file.",
);
pub(crate) const STAPLE_EXPIRY: Named = (
    "meridian_ocsp_response_expiry_timestamp_seconds",
    "When the OCSP response that is shown with a certificate is out of date, Unix time; absent: none is shown.",
);
pub(crate) const CLIENT_CRL_EXPIRY: Named = (
    "meridian_client_crl_expiry_timestamp_seconds",
    "When the first revocation list of a listener's client_crl is out of date, Unix time: clients are refused then.",
);
pub(crate) const CERTIFICATE_FAILURES: Named = (
    "meridian_certificate_reload_failures_total",
    "Certificate files that could not replace those in force.",
);
pub(crate) const ACME_ORDERS: Named = (
    "meridian_acme_orders_total",
    "Orders of certificates that have ended: issued, failed; by the certificate's first domain.",
);
pub(crate) const ACME_FAILURES: Named = (
    "meridian_acme_failures_in_a_row",
    "Orders of a certificate that have failed since one was issued; 0: all is well.",
);
pub(crate) const ACME_NEXT: Named = (
    "meridian_acme_next_order_timestamp_seconds",
    "When the next order of a certificate begins, Unix time; absent: one is under way.",
);
pub(crate) const ACME_ANSWERED: Named = (
    "meridian_acme_challenges_answered_total",
    "Questions of authorities that were answered, by the kind of challenge.",
);
pub(crate) const HANDSHAKES: Named = (
    "meridian_tls_handshakes_total",
    "TLS handshakes by result: full, resumed, failed, late (deadline), unproven (resumed without a good certificate).",
);
pub(crate) const FAILOVERS: Named = (
    "meridian_failovers_total",
    "Moves of a service's requests, or its writes, to another region; an empty region: none was left.",
);
pub(crate) const OPERATIONS: Named = (
    "meridian_primary_operations_total",
    "Failovers, failbacks and switchovers that have ended: done, failed or cancelled.",
);
pub(crate) const REGION_CHANGES: Named =
    ("meridian_region_state_changes_total", "Changes of a service's state in a region.");
pub(crate) const HISTORY_DROPPED: Named =
    ("meridian_history_dropped_total", "Changes of state that are not in the history's file.");
pub(crate) const ALERTS: Named =
    ("meridian_alerts_total", "Events for the webhook by result: delivered, failed, dropped.");
pub(crate) const ALERTS_WAITING: Named =
    ("meridian_alerts_waiting", "Events that the webhook has not been told of yet.");
pub(crate) const BUILD_INFO: Named = ("meridian_build_info", "Always 1; what is running.");
pub(crate) const PROCESS_CPU: Named =
    ("process_cpu_seconds_total", "User and system CPU time spent.");
pub(crate) const PROCESS_FDS: Named = ("process_open_fds", "Open file descriptors.");
pub(crate) const PROCESS_MEMORY: Named = ("process_resident_memory_bytes", "Resident memory.");
pub(crate) const PROCESS_START: Named =
    ("process_start_time_seconds", "When the process started, Unix time.");
