//! The steps from one version of the schema to the next, for both databases.
//!
//! A step first expands: programs of the version before go on working beside those of the new one.
//! What they need is taken away no earlier than a version later, by a step that raises `oldest`.

/// One step. Both databases number their steps alike.
pub(crate) struct Step {
    pub(crate) version: i64,
    pub(crate) name: &'static str,
    /// The oldest schema version whose programs can use what this step leaves.
    pub(crate) oldest: i64,
    #[cfg(feature = "sqlite")]
    pub(crate) sqlite: Option<&'static str>,
    #[cfg(feature = "postgres")]
    pub(crate) postgres: Option<&'static str>,
}

macro_rules! step {
    ($version:literal, $name:literal, oldest $oldest:literal, $sqlite:expr, $postgres:expr) => {
        Step {
            version: $version,
            name: $name,
            oldest: $oldest,
            #[cfg(feature = "sqlite")]
            sqlite: $sqlite,
            #[cfg(feature = "postgres")]
            postgres: $postgres,
        }
    };
}

pub(crate) const STEPS: &[Step] = &[
    step!(1, "sessions", oldest 1, Some(include_str!("../migrations/sqlite/0001_sessions.sql")), None),
    step!(2, "directories", oldest 2, Some(include_str!("../migrations/sqlite/0002_directories.sql")), None),
    step!(3, "outbox", oldest 3, Some(include_str!("../migrations/sqlite/0003_outbox.sql")), None),
    step!(4, "unfinished bytes", oldest 4, Some(include_str!("../migrations/sqlite/0004_unfinished_bytes.sql")), None),
    step!(
        5, "notifications", oldest 5,
        Some(include_str!("../migrations/sqlite/0005_notifications.sql")),
        Some(include_str!("../migrations/postgres/0005_sessions.sql"))
    ),
    step!(
        6, "identity", oldest 5,
        Some(include_str!("../migrations/sqlite/0006_identity.sql")),
        Some(include_str!("../migrations/postgres/0006_identity.sql"))
    ),
];

/// The version that this program needs.
pub(crate) const NEWEST: i64 = STEPS[STEPS.len() - 1].version;

/// The oldest version whose programs can use it beside this one.
#[cfg(feature = "sqlite")]
pub(crate) const OLDEST: i64 = STEPS[STEPS.len() - 1].oldest;

/// Whether this program can use a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    Fits,
    TooOld,
    TooNew,
}

/// How a database of version `found`, which takes programs from version `oldest` on, fits.
pub(crate) fn fit(found: i64, oldest: i64) -> Fit {
    match found {
        _ if found < NEWEST => Fit::TooOld,
        _ if found == NEWEST || (1..=NEWEST).contains(&oldest) => Fit::Fits,
        _ => Fit::TooNew,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_count_and_each_step_says_who_may_stay() {
        for (step, version) in STEPS.iter().zip(1..) {
            assert_eq!(step.version, version, "{}", step.name);
            assert!((1..=version).contains(&step.oldest), "{}", step.name);
        }
        assert!(STEPS.is_sorted_by_key(|step| step.oldest), "nobody comes back");
    }

    #[test]
    fn a_newer_database_fits_where_it_says_so() {
        for (found, oldest, expected) in [
            (NEWEST - 1, 1, Fit::TooOld),
            (0, 0, Fit::TooOld),
            (NEWEST, NEWEST, Fit::Fits),
            // Databases of old versions do not say.
            (NEWEST, 0, Fit::Fits),
            (NEWEST + 1, NEWEST, Fit::Fits),
            (NEWEST + 1, NEWEST + 1, Fit::TooNew),
            (NEWEST + 1, 0, Fit::TooNew),
        ] {
            assert_eq!(fit(found, oldest), expected, "{found} {oldest}");
        }
    }
}
