//! Did you mean: the known name nearest to an unknown one. Refuses to know what is named.

/// Longer texts are not compared.
const LONGEST: usize = 64;

/// `; did you mean "api"?`, or nothing when no candidate is near.
///
/// Near is at most a third of the letters changed, added, dropped or swapped with their neighbour.
pub(crate) fn did_you_mean<'a>(
    unknown: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> String {
    match nearest(unknown, candidates) {
        Some(candidate) => format!("; did you mean {candidate:?}?"),
        None => String::new(),
    }
}

/// The candidate that [`did_you_mean`] names.
pub(crate) fn nearest<'a>(
    unknown: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    if unknown.len() > LONGEST {
        return None;
    }
    let unknown = unknown.to_lowercase();
    let near = |candidate: &str| {
        let longer = unknown.len().max(candidate.len());
        let allowed = (longer / 3).max(1);
        if unknown.len().abs_diff(candidate.len()) > allowed {
            return None;
        }
        let distance = strsim::damerau_levenshtein(&unknown, &candidate.to_lowercase());
        (distance <= allowed && distance < longer).then_some(distance)
    };
    candidates
        .into_iter()
        .filter_map(|candidate| Some((near(candidate)?, candidate)))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_nearest_and_stays_silent_when_none_is_near() {
        let known = ["latency", "geo", "weighted", "api"];
        assert_eq!(nearest("latancy", known), Some("latency"));
        assert_eq!(nearest("GEO", known), Some("geo"));
        assert_eq!(nearest("apii", known), Some("api"));
        assert_eq!(nearest("wieghted", known), Some("weighted"));
        assert_eq!(nearest("random", known), None);
        assert_eq!(nearest("", known), None);
        assert_eq!(nearest("x", ["y"]), None);
        assert_eq!(did_you_mean("geoo", known), "; did you mean \"geo\"?");
    }
}
