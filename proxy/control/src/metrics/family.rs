//! Metric families, filled at scrape time.

use std::time::Duration;

use meridian_routing::{BUCKETS, Histogram};
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram as HistogramProto, LabelPair, Metric, MetricFamily,
    MetricType,
};

use super::names::Named;

/// A family of one type under construction.
pub(crate) struct Family(MetricFamily);

/// Label names and values.
pub(crate) type Labels<'a> = &'a [(&'static str, &'a str)];

impl Family {
    pub(crate) fn counter(named: Named) -> Self {
        Self::new(named, MetricType::COUNTER)
    }

    pub(crate) fn gauge(named: Named) -> Self {
        Self::new(named, MetricType::GAUGE)
    }

    pub(crate) fn histogram(named: Named) -> Self {
        Self::new(named, MetricType::HISTOGRAM)
    }

    fn new((name, help): Named, kind: MetricType) -> Self {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        Self(family)
    }

    /// Adds a sample of a counter or a gauge.
    pub(crate) fn add(&mut self, labels: Labels<'_>, value: f64) {
        let mut metric = Metric::from_label(pairs(labels));
        if self.0.get_field_type() == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.0.mut_metric().push(metric);
    }

    /// Adds a count; counts up to 2^53 are exact.
    pub(crate) fn count(&mut self, labels: Labels<'_>, value: u64) {
        self.add(labels, value as f64);
    }

    /// Adds a duration in seconds.
    pub(crate) fn seconds(&mut self, labels: Labels<'_>, value: Duration) {
        self.add(labels, value.as_secs_f64());
    }

    /// Adds a histogram unless nothing was observed.
    pub(crate) fn observe(&mut self, labels: Labels<'_>, histogram: &Histogram) {
        let (counts, sum) = histogram.snapshot();
        let total: u64 = counts.iter().sum();
        if total == 0 {
            return;
        }
        let mut so_far = 0;
        let buckets = BUCKETS.iter().zip(counts).map(|(bound, count)| {
            so_far += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(so_far);
            bucket
        });
        let mut proto = HistogramProto::default();
        proto.set_bucket(buckets.collect());
        proto.set_sample_count(total);
        proto.set_sample_sum(sum);
        let mut metric = Metric::from_label(pairs(labels));
        metric.set_histogram(proto);
        self.0.mut_metric().push(metric);
    }

    /// The family, unless it has no sample.
    pub(crate) fn filled(self) -> Option<MetricFamily> {
        (!self.0.get_metric().is_empty()).then_some(self.0)
    }
}

fn pairs(labels: Labels<'_>) -> Vec<LabelPair> {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    labels.iter().map(pair).collect()
}
