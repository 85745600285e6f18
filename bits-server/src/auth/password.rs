//! `bits-server password`: adds a user to a file of users, or gives one another password.

use std::{
    fs::{self, File},
    io::{self, BufRead, IsTerminal, Read, Write},
    os::unix::fs::{MetadataExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use argon2::{Argon2, password_hash::PasswordHasher};
use bits_core::Principal;
use rustix::fs::{FlockOperation, flock};
use secrecy::{ExposeSecret, SecretString};
use tempfile::NamedTempFile;

use super::htpasswd;

/// The longest line that is read as a password.
const LONGEST_LINE: u64 = 4096;

/// Asks for a password and puts it into the file; gives a line that says what was done.
pub(crate) fn set(user: &str, file: &Path) -> Result<String, String> {
    let line = line(user, ask(user)?.expose_secret())?;
    let replaced = write(file, user, &line)?;
    let done = if replaced { "has a new password" } else { "was added" };
    Ok(format!("user {:?} {done} in {}", user.to_lowercase(), file.display()))
}

/// From the terminal, without showing it, twice; where there is none, a line of standard input.
fn ask(user: &str) -> Result<SecretString, String> {
    let unreadable = |error: io::Error| format!("the password cannot be read: {error}");
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        let mut line = String::new();
        stdin.lock().take(LONGEST_LINE).read_line(&mut line).map_err(unreadable)?;
        let end = line.trim_end_matches(['\r', '\n']).len();
        line.truncate(end);
        return Ok(line.into());
    }
    let prompt = |text: String| rpassword::prompt_password(text).map(SecretString::from).map_err(unreadable);
    let password = prompt(format!("Password of {}: ", user.escape_debug()))?;
    if prompt("The same again: ".to_owned())?.expose_secret() != password.expose_secret() {
        return Err("the two passwords are not the same; nothing was changed".to_owned());
    }
    Ok(password)
}

/// The line for a user with this password, hashed with argon2id and a fresh salt.
fn line(user: &str, password: &str) -> Result<String, String> {
    htpasswd::check_name(user)?;
    if password.is_empty() || password.contains(char::is_control) {
        return Err("the password is empty or holds a control character; choose another".to_owned());
    }
    let hash = Argon2::default().hash_password(password.as_bytes());
    hash.map(|hash| format!("{user}:{hash}")).map_err(|error| format!("the password cannot be hashed: {error}"))
}

/// Puts `line` in the place of the user's, or at the end; true where there was one.
fn write(file: &Path, user: &str, line: &str) -> Result<bool, String> {
    let failed = |error: io::Error| format!("{}: cannot be written: {error}", file.display());
    let target = target(file).map_err(failed)?;
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Whoever else changes the file by this command waits.
    let lock = File::open(folder).map_err(failed)?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
    let old = match fs::read_to_string(&target) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(failed(error)),
    };
    htpasswd::parse(&old).map_err(|(number, reason)| format!("{}:{number}: {reason}", file.display()))?;
    let (text, replaced) = with_line(&old, user, line);
    replace(&target, folder, &text).map_err(failed)?;
    Ok(replaced)
}

/// The file itself, where the path is a link to it.
fn target(file: &Path) -> io::Result<PathBuf> {
    match file.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(file.to_owned()),
        found => found,
    }
}

fn with_line(old: &str, user: &str, line: &str) -> (String, bool) {
    let user = Principal::named(user);
    let mut text = String::with_capacity(old.len() + line.len() + 1);
    let mut replaced = false;
    for kept in old.lines() {
        let same = user_of(kept).is_some_and(|name| Principal::named(name) == user);
        replaced |= same;
        text.push_str(if same { line } else { kept });
        text.push('\n');
    }
    if !replaced {
        text.push_str(line);
        text.push('\n');
    }
    (text, replaced)
}

fn user_of(line: &str) -> Option<&str> {
    line.split_once(':').map(|(name, _)| name).filter(|_| !line.starts_with('#'))
}

/// Readers see the old file or the new one, with the owner and mode that it had. A new one is the
/// user's alone, unless its folder was given to the group of a service, which then reads it.
fn replace(target: &Path, folder: &Path, text: &str) -> io::Result<()> {
    let mut new = NamedTempFile::new_in(folder)?;
    new.write_all(text.as_bytes())?;
    let (own, around) = (new.as_file().metadata()?, fs::metadata(folder)?);
    if let Ok(old) = fs::metadata(target) {
        if (own.uid(), own.gid()) != (old.uid(), old.gid()) {
            fchown(new.as_file(), Some(old.uid()), Some(old.gid()))?;
        }
        new.as_file().set_permissions(fs::Permissions::from_mode(old.mode() & 0o777))?;
    } else if around.gid() != own.gid() && fchown(new.as_file(), None, Some(around.gid())).is_ok() {
        new.as_file().set_permissions(fs::Permissions::from_mode(0o600 | around.mode() & 0o040))?;
    }
    new.as_file().sync_all()?;
    new.persist(target).map_err(|error| error.error)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_made_is_read() {
        let text = format!("# users\n\n{}\n{}\r\n", line("Jo", "secret").unwrap(), line("ann@x", "other:pw").unwrap());
        let entries = htpasswd::parse(&text).unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].principal, Principal::named("jo"));
        assert!(entries[0].hash.verify("secret") && !entries[0].hash.verify("Secret"));
        assert!(entries[1].hash.verify("other:pw") && !entries[1].hash.verify("secret"));
        assert_eq!(format!("{entries:?}").matches("argon2").count(), 0, "hashes are not shown");
    }

    #[test]
    fn names_and_passwords_that_no_request_can_carry_are_refused() {
        for (name, password) in [("", "x"), ("a:b", "x"), ("#a", "x"), ("a\n", "x"), ("a", ""), ("a", "x\n")] {
            assert!(line(name, password).is_err(), "{name:?} {password:?}");
        }
    }

    #[test]
    fn a_line_takes_the_place_of_the_users_own() {
        for (old, expected, replaced) in [
            ("", "Jo:new\n", false),
            ("ann:x", "ann:x\nJo:new\n", false),
            ("# jo:x\njo:x\r\nann:y\n", "# jo:x\nJo:new\nann:y\n", true),
            ("joe:x\n", "joe:x\nJo:new\n", false),
        ] {
            assert_eq!(with_line(old, "Jo", "Jo:new"), (expected.to_owned(), replaced), "{old:?}");
        }
    }

    #[test]
    fn a_new_file_is_private_and_an_old_one_keeps_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("users"), folder.path().join("link"));
        let line = |name| line(name, "secret").unwrap();
        let mode = || fs::metadata(&file).unwrap().mode() & 0o777;
        assert_eq!(write(&file, "jo", &line("jo")), Ok(false));
        assert_eq!(mode(), 0o600);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(write(&link, "ann", &line("ann")), Ok(false));
        assert_eq!(write(&file, "JO", &line("JO")), Ok(true));
        assert_eq!(mode(), 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing else is left");
        let users = htpasswd::parse(&fs::read_to_string(&file).unwrap()).unwrap();
        let names: Vec<_> = users.iter().map(|entry| entry.principal.as_str()).collect();
        assert_eq!(names, ["jo", "ann"]);
    }

    /// As root adds the first user to `/etc/bits-server`.
    #[test]
    fn a_new_file_is_read_by_the_group_that_its_folder_was_given_to() {
        let folder = tempfile::tempdir().unwrap();
        let group = fs::metadata(folder.path()).unwrap().gid() + 1;
        if std::os::unix::fs::chown(folder.path(), None, Some(group)).is_err() {
            eprintln!("skipped: it takes root");
            return;
        }
        for (mode, expected) in [(0o750, 0o640), (0o710, 0o600)] {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
            let file = folder.path().join(mode.to_string());
            assert_eq!(write(&file, "jo", &line("jo", "secret").unwrap()), Ok(false));
            let made = fs::metadata(&file).unwrap();
            assert_eq!((made.mode() & 0o777, made.gid()), (expected, group));
        }
    }

    #[test]
    fn a_broken_file_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("users");
        fs::write(&file, "ann:plain\n").unwrap();
        let error = write(&file, "jo", &line("jo", "secret").unwrap()).unwrap_err();
        assert!(error.contains("users:1: the hash is neither"), "{error}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "ann:plain\n");
    }
}
