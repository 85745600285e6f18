//! Landlock: the kernel refuses to open, make, move or run what lies outside.

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, CompatLevel, Compatible, LandlockStatus, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, path_beneath_rules,
};

use super::Allowed;

/// The least that is any use: publishing moves files between folders, and before the second
/// version of Landlock no confined process could.
const LEAST: ABI = ABI::V2;
/// The newest version whose rights the server is tested with. Rights that a kernel does not know
/// are left out.
const NEWEST: ABI = ABI::V5;

/// Restricts this thread, and those that it starts, to what is allowed; false where the kernel cannot.
pub(super) fn restrict(allowed: &Allowed) -> Result<bool, String> {
    let least =
        Ruleset::default().set_compatibility(CompatLevel::HardRequirement).handle_access(AccessFs::from_all(LEAST));
    let Ok(ruleset) = least else {
        tracing::warn!(
            "not confined to its paths: the kernel has no Landlock, or an older one than version 2 (Linux 5.19)"
        );
        return Ok(false);
    };
    let version = enforce(ruleset, allowed).map_err(|error| {
        format!("confine: the kernel refuses to confine the process: {error}; set confine = false to serve without")
    })?;
    tracing::info!(
        landlock = version,
        write = ?allowed.written(),
        read = ?allowed.only_read(),
        "confined to its paths; it can run no programs"
    );
    Ok(true)
}

/// The version of Landlock that holds afterwards.
fn enforce(ruleset: Ruleset, allowed: &Allowed) -> Result<i32, RulesetError> {
    let status = ruleset
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .create()?
        .add_rules(path_beneath_rules(allowed.only_read(), READ))?
        .add_rules(path_beneath_rules(allowed.written(), READ | WRITE))?
        .restrict_self()?;
    Ok(match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => effective_abi as i32,
        _ => 0,
    })
}

const READ: BitFlags<AccessFs> = landlock::make_bitflags!(AccessFs::{ReadFile | ReadDir});
/// Files and folders, and nothing that is neither.
const WRITE: BitFlags<AccessFs> = landlock::make_bitflags!(AccessFs::{
    WriteFile | Truncate | MakeReg | MakeDir | RemoveFile | RemoveDir | Refer
});
