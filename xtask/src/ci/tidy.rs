//! What compilers do not see: modules say what they are for, nothing is left undone, nothing is
//! said by the number of an issue, links between documents lead somewhere.

use std::fs;
use std::path::{Path, PathBuf};

use crate::shell::Result;

/// Checks all source files and documents below `root`.
pub(crate) fn check(root: &Path) -> Result<()> {
    eprintln!("checking tidiness");
    let mut found = Vec::new();
    for path in files(root)? {
        let text = fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let shown = path.strip_prefix(root).unwrap_or(&path).display();
        found.extend(complaints(&path, &text).into_iter().map(|complaint| format!("  {shown}: {complaint}")));
    }
    found.extend(book(&root.join("docs"))?);
    if found.is_empty() { Ok(()) } else { Err(format!("not tidy:\n{}", found.join("\n")).into()) }
}

fn complaints(path: &Path, text: &str) -> Vec<String> {
    let own = match path.extension().and_then(|extension| extension.to_str()) {
        Some("rs") => source(text),
        Some("md") => broken_links(path, text),
        _ => Vec::new(),
    };
    own.into_iter().chain(issue_numbers(text)).collect()
}

/// The book has every chapter, and its links stay within it, where its site has them too.
fn book(folder: &Path) -> Result<Vec<String>> {
    let contents = fs::read_to_string(folder.join("SUMMARY.md"))?;
    let mut found = Vec::new();
    for path in files(folder)?.iter().filter(|path| path.parent() == Some(folder)) {
        let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|name| name.ends_with(".md")) else {
            continue;
        };
        if name != "SUMMARY.md" && !contents.contains(&format!("]({name})")) {
            found.push(format!("  docs/{name}: is not in docs/SUMMARY.md"));
        }
        let text = fs::read_to_string(path)?;
        let outside = prose(&text).flat_map(link_targets).filter(|target| target.starts_with(".."));
        found.extend(outside.map(|target| format!("  docs/{name}: {target} is not in the book: link to its URL")));
    }
    Ok(found)
}

fn source(text: &str) -> Vec<String> {
    let purpose = (!text.starts_with("//!")).then(|| "does not open with `//!` and what it is for".to_owned());
    let undone = UNDONE.iter().flat_map(|word| lines_with(text, move |line| line.contains(word)));
    purpose.into_iter().chain(undone.map(|line| format!("line {line} is left undone"))).collect()
}

// In pieces, so that this file passes its own check.
const UNDONE: &[&str] =
    &[concat!("todo", "!("), concat!("unimplemented", "!("), concat!("FIX", "ME"), concat!("XX", "X")];

fn issue_numbers(text: &str) -> Vec<String> {
    let lines = lines_with(text, |line| line.split(|c: char| c.is_whitespace() || c == '(').any(is_issue_number));
    lines.map(|line| format!("line {line} names an issue by its number: say what it is about instead")).collect()
}

fn is_issue_number(word: &str) -> bool {
    let word = word.trim_end_matches(|c: char| c.is_ascii_punctuation());
    word.strip_prefix('#').is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
}

fn lines_with(text: &str, matches: impl Fn(&str) -> bool) -> impl Iterator<Item = usize> {
    text.lines().enumerate().filter(move |(_, line)| matches(line)).map(|(index, _)| index + 1)
}

fn broken_links(path: &Path, text: &str) -> Vec<String> {
    let targets = prose(text).flat_map(link_targets).filter(|target| !resolves(path, text, target));
    targets.map(|target| format!("the link to {target} leads nowhere")).collect()
}

fn resolves(document: &Path, text: &str, target: &str) -> bool {
    if target.contains("://") || target.starts_with("mailto:") {
        return true;
    }
    let (file, anchor) = target.split_once('#').map_or((target, None), |(file, anchor)| (file, Some(anchor)));
    if file.is_empty() {
        return anchor.is_none_or(|anchor| has_heading(text, anchor));
    }
    let path = document.with_file_name(file);
    match anchor {
        None => path.exists(),
        Some(anchor) => fs::read_to_string(path).is_ok_and(|text| has_heading(&text, anchor)),
    }
}

fn has_heading(text: &str, anchor: &str) -> bool {
    prose(text).filter(|line| line.starts_with('#')).any(|line| slug(line.trim_start_matches('#')) == anchor)
}

fn slug(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The lines outside fenced blocks of code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fence && !fenced
    })
}

fn link_targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
}

/// Files of interest; hidden ones and folders of build products are passed over.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            if !is_passed_over(&path) {
                found.extend(files(&path)?);
            }
        } else if path.extension().is_some_and(|extension| ["rs", "md", "toml"].iter().any(|e| extension == *e)) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn is_passed_over(folder: &Path) -> bool {
    let hidden = folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    hidden || folder.ends_with("target") || folder.ends_with("bits-data") || folder.join("CACHEDIR.TAG").exists()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell;

    #[test]
    fn the_workspace_is_tidy() {
        check(&shell::root()).unwrap();
    }

    #[test]
    fn sources_say_what_they_are_for_and_leave_nothing_undone() {
        let text = format!("fn f() {{\n    {}\"later\")\n}}\n", UNDONE[0]);
        let found = complaints(Path::new("a.rs"), &text);
        assert_eq!(found, ["does not open with `//!` and what it is for", "line 2 is left undone"]);
        assert_eq!(complaints(Path::new("a.rs"), "//! Adds.\nfn f() {}\n"), [""; 0]);
    }

    #[test]
    fn issues_are_not_named_by_number() {
        let number = "#12";
        for text in [format!("see {number}."), format!("fixed ({number})")] {
            assert_eq!(issue_numbers(&text).len(), 1, "{text}");
        }
        for text in ["# 1. First", "r#\"1\"#", "[there](other.md#2-second)", "#[test]"] {
            assert_eq!(issue_numbers(text), [""; 0], "{text}");
        }
    }

    #[test]
    fn links_lead_to_files_and_headings() {
        let document = shell::root().join("README.md");
        let text = "# The page\n\n## Two `words`, more\n```\n# code [a](gone.md)\n```\n";
        for target in ["https://example.com/a#b", "#the-page", "#two-words-more", "xtask/Cargo.toml", "xtask"] {
            assert!(resolves(&document, text, target), "{target}");
        }
        for target in ["#code-a", "#page", "gone.md", "xtask/Cargo.toml#heading"] {
            assert!(!resolves(&document, text, target), "{target}");
        }
        assert_eq!(broken_links(&document, &format!("{text}[b](gone.md), [c](#the-page)")).len(), 1);
    }
}
