//! Secrets that are typed nowhere: from a file, a variable of the environment, or standard input.

use std::fs;
use std::io::{self, BufRead as _, IsTerminal as _};
use std::path::Path;

use cx_api::ExitStatus;

use crate::output::Failure;

/// No secret is longer, with room for what is wrong with one that is.
const LONGEST: u64 = 4096;

/// A secret that nobody sees: never of the command line, which every process can read.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn secret(file: Option<&Path>, variable: &str, option: &str) -> Result<String, Failure> {
    let given = std::env::var(variable).ok().filter(|secret| !secret.is_empty());
    match (file, given) {
        (Some(path), _) if path != Path::new("-") => from_file(path),
        (None, Some(secret)) => Ok(secret),
        (None, None) if io::stdin().is_terminal() => Err(Failure::usage("the CHAP secret is missing")
            .because("it is never given on the command line, which every process of the machine can read")
            .fix(format!(
                "put it into a file and say {option} FILE, into the variable {variable}, or pipe it in"
            ))),
        _ => from_input(option),
    }
}

fn from_file(path: &Path) -> Result<String, Failure> {
    let failed = |why: String| {
        Failure::new(ExitStatus::Error, format!("the CHAP secret in {} cannot be read", path.display()))
            .because(why)
    };
    let length = fs::metadata(path).map_err(|e| failed(e.to_string()))?.len();
    if length > LONGEST {
        return Err(failed(format!("it has {length} bytes: that is no secret")));
    }
    let mut text = fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
    trim_end_of_line(&mut text);
    Ok(text)
}

fn from_input(option: &str) -> Result<String, Failure> {
    let mut text = String::new();
    let failed = |why: &str| {
        Failure::new(ExitStatus::Usage, "no CHAP secret came on standard input")
            .because(why)
            .fix(format!("send it as a line, or say {option} FILE"))
    };
    io::stdin().lock().read_line(&mut text).map_err(|e| failed(&e.to_string()))?;
    trim_end_of_line(&mut text);
    if text.is_empty() { Err(failed("the line is empty")) } else { Ok(text) }
}

fn trim_end_of_line(text: &mut String) {
    for end in ['\n', '\r'] {
        if text.ends_with(end) {
            text.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_in_a_file_may_end_with_a_line() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("secret");
        for text in ["twelve-chars", "twelve-chars\n", "twelve-chars\r\n"] {
            fs::write(&path, text).unwrap();
            assert_eq!(from_file(&path).unwrap(), "twelve-chars");
        }
        fs::write(&path, "x".repeat(5000)).unwrap();
        assert!(from_file(&path).is_err());
        assert!(from_file(&tmp.path().join("none")).unwrap_err().what.contains("none"));
    }
}
