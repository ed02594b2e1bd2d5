//! Who may open what: clients as their certificates name them, exports by patterns.

use std::fmt;
use std::sync::Arc;

/// A name with `*` for any run of characters, none included.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pattern(String);

/// Which clients of a front are asked for a certificate, and what each of them may open.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Clients {
    /// None is asked; everybody may open everything.
    #[default]
    Anybody,
    /// Each needs a certificate of the front's CA, and may then open everything.
    Certified,
    /// Each needs a certificate that one of these names, and may open what those that do say.
    Listed(Arc<[Grant]>),
}

/// What the holders of some certificates may open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Matched with the certificate's common name and its alternative names.
    pub certificate: Pattern,
    /// Matched with the export's name as the client gives it.
    pub exports: Vec<Pattern>,
}

/// What one client may open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access(Option<Arc<[Pattern]>>);

impl Pattern {
    /// Does it fit the whole of `text`?
    #[must_use]
    pub fn fits(&self, text: &str) -> bool {
        let Some((first, rest)) = self.0.split_once('*') else { return self.0 == text };
        let Some(mut text) = text.strip_prefix(first) else { return false };
        let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
        // The leftmost place for each piece leaves the most for those behind it.
        for piece in middle.split('*') {
            let Some(at) = text.find(piece) else { return false };
            text = text.get(at + piece.len()..).unwrap_or_default();
        }
        text.ends_with(last)
    }
}

impl From<&str> for Pattern {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Clients {
    /// What the holder of a certificate with these names may open.
    pub(crate) fn access_of(&self, names: &[String]) -> Access {
        let Self::Listed(grants) = self else { return Access::all() };
        let held = grants.iter().filter(|grant| names.iter().any(|name| grant.certificate.fits(name)));
        Access::only(held.flat_map(|grant| grant.exports.iter().cloned()))
    }

    /// What a client without a certificate may open, where it gets in at all.
    pub(crate) fn access_of_unknown(&self) -> Access {
        match self {
            Self::Listed(_) => Access::only([]),
            Self::Anybody | Self::Certified => Access::all(),
        }
    }
}

impl Access {
    /// Everything.
    #[must_use]
    pub const fn all() -> Self {
        Self(None)
    }

    /// Exports that one of these fits.
    #[must_use]
    pub fn only(patterns: impl IntoIterator<Item = Pattern>) -> Self {
        Self(Some(patterns.into_iter().collect()))
    }

    /// May the client open, and see, an export of this name?
    #[must_use]
    pub fn allows(&self, export: &str) -> bool {
        self.0.as_ref().is_none_or(|patterns| patterns.iter().any(|pattern| pattern.fits(export)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_run_and_nothing_else_is_special() {
        for (pattern, fits, not) in [
            ("web01", &["web01"][..], &["web010", "web0", ""][..]),
            ("*", &["", "a", "web01@-10m"], &[]),
            ("web01@*", &["web01@", "web01@now"], &["web01", "xweb01@now"]),
            ("*.example.org", &["a.example.org", ".example.org"], &["example.org", "a.example.org.evil"]),
            ("a*b*c", &["abc", "axbxc", "abcbc"], &["ab", "acb", "abcx"]),
            ("a*a", &["aa", "aba"], &["a", "ab"]),
            ("a**b", &["ab", "axb"], &["a"]),
            ("w.b?", &["w.b?"], &["wxb?", "w.bx"]),
            ("", &[""], &["a"]),
        ] {
            for text in fits {
                assert!(Pattern::from(pattern).fits(text), "{pattern} {text}");
            }
            for text in not {
                assert!(!Pattern::from(pattern).fits(text), "{pattern} {text}");
            }
        }
    }

    #[test]
    fn a_client_may_open_what_all_its_names_together_allow() {
        let grant = |certificate: &str, exports: &[&str]| Grant {
            certificate: certificate.into(),
            exports: exports.iter().map(|e| Pattern::from(*e)).collect(),
        };
        let listed = [grant("backup*", &["web01@*"]), grant("*.org", &["db"]), grant("other", &["*"])];
        let clients = Clients::Listed(listed.into());
        let access = clients.access_of(&["backup".to_owned(), "x.org".to_owned()]);
        assert!(access.allows("web01@now") && access.allows("db"));
        assert!(!access.allows("web01") && !access.allows(""));
        assert!(!clients.access_of(&["nobody".to_owned()]).allows("db"));
        assert!(!clients.access_of(&[]).allows("db"));
        assert!(!clients.access_of_unknown().allows("db"));
        assert!(Clients::Certified.access_of(&[]).allows("db"));
        assert!(Clients::Anybody.access_of_unknown().allows("anything"));
    }
}
