//! Bounds on the bytes of uploads that are not finished, counted by the sizes that they will have.

/// How many bytes the unfinished uploads of one directory may have. An upload counts in full from
/// its first fragment until it is published or its session ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Those of one principal.
    pub per_user: Option<u64>,
    /// All of them.
    pub directory: Option<u64>,
}

/// Which quota an upload does not fit into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Excess {
    /// Whose quota it is.
    pub of: QuotaOf,
    /// The quota in bytes.
    pub limit: u64,
    /// Bytes of the unfinished uploads that count already.
    pub used: u64,
}

/// Whose quota it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaOf {
    /// The principal's in this directory.
    User,
    /// The directory's.
    Directory,
}

impl Quota {
    /// No bounds.
    pub const NONE: Self = Self { per_user: None, directory: None };

    /// What an upload of `total` bytes does not fit into, beside unfinished ones of `user` bytes of
    /// its principal and `directory` bytes in all.
    pub fn excess(&self, total: u64, user: u64, directory: u64) -> Option<Excess> {
        let excess = |of, limit: Option<u64>, used: u64| {
            let limit = limit.filter(|limit| used.saturating_add(total) > *limit)?;
            Some(Excess { of, limit, used })
        };
        excess(QuotaOf::User, self.per_user, user).or_else(|| excess(QuotaOf::Directory, self.directory, directory))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_and_what_does_not() {
        let quota = Quota { per_user: Some(10), directory: Some(20) };
        let user = |used| Some(Excess { of: QuotaOf::User, limit: 10, used });
        let directory = |used| Some(Excess { of: QuotaOf::Directory, limit: 20, used });
        for (total, used_by_user, used_in_all, expected) in [
            (10, 0, 10, None),
            (11, 0, 0, user(0)),
            (4, 6, 16, None),
            (4, 7, 7, user(7)),
            (4, 6, 17, directory(17)),
            (0, 10, 20, None),
            (u64::MAX, 1, 1, user(1)),
        ] {
            let excess = quota.excess(total, used_by_user, used_in_all);
            assert_eq!(excess, expected, "{total} beside {used_by_user} and {used_in_all}");
            assert_eq!(Quota::NONE.excess(total, used_by_user, used_in_all), None);
        }
    }
}
