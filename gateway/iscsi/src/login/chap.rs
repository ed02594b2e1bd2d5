//! CHAP (RFC 7143 section 12.1, RFC 1994): who the initiator is, and on demand who we are.
//!
//! A challenge has to come from outside: this crate draws no random numbers.

use md5::Digest;
use sha1::Sha1;
use sha2::Sha256;
use sha3::Sha3_256;

use crate::text::{Pair, decode_binary, encode_binary};

/// A name with its secret. The secret is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The CHAP name.
    pub name: String,
    /// The CHAP secret.
    pub secret: Vec<u8>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Who may log in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Access {
    /// Anybody.
    #[default]
    Open,
    /// Whoever knows the secret.
    Chap {
        /// What the initiator has to know.
        initiator: Credentials,
        /// What we answer an initiator with that wants to know who we are.
        target: Option<Credentials>,
    },
    /// Anybody; but whoever offers CHAP alone has to know one of these secrets, beside each what we answer with.
    Optional {
        /// Several may have one name.
        known: Vec<(Credentials, Option<Credentials>)>,
    },
}

impl Access {
    /// Would this be enough to log in?
    pub(crate) fn is_met_by(&self, proved: Option<&Credentials>) -> bool {
        match self {
            Self::Open | Self::Optional { .. } => true,
            Self::Chap { initiator, .. } => proved == Some(initiator),
        }
    }
}

/// Random bytes for one login, drawn by the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Challenge {
    /// `CHAP_I`.
    pub identifier: u8,
    /// `CHAP_C`.
    pub bytes: [u8; 32],
}

/// `CHAP_A` (RFC 7143 section 12.1.3; the numbers are IANA's).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Md5,
    Sha1,
    Sha256,
    Sha3_256,
}

/// The target's end of the exchange.
#[derive(Debug)]
pub(crate) struct Chap {
    /// What an initiator may know, and what we answer it with.
    known: Vec<(Credentials, Option<Credentials>)>,
    challenge: Challenge,
    state: State,
    /// Which of them it knows.
    proved: Option<Credentials>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// `CHAP_A` is due.
    Start,
    /// `CHAP_N` and `CHAP_R` are due.
    Challenged(Algorithm),
    /// The initiator is who it says it is.
    Done,
}

/// The exchange failed: the login ends with "authentication failure".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failed;

impl Algorithm {
    /// The first in the initiator's order of preference that we know.
    fn choose(list: &str) -> Option<Self> {
        list.split(',').find_map(|number| match number.trim() {
            "5" => Some(Self::Md5),
            "6" => Some(Self::Sha1),
            "7" => Some(Self::Sha256),
            "8" => Some(Self::Sha3_256),
            _ => None,
        })
    }

    fn number(self) -> &'static str {
        match self {
            Self::Md5 => "5",
            Self::Sha1 => "6",
            Self::Sha256 => "7",
            Self::Sha3_256 => "8",
        }
    }

    /// RFC 1994 section 4.1: the hash of identifier, secret and challenge.
    fn response(self, identifier: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
        let message = [&[identifier][..], secret, challenge].concat();
        match self {
            Self::Md5 => md5::Md5::digest(message).to_vec(),
            Self::Sha1 => Sha1::digest(message).to_vec(),
            Self::Sha256 => Sha256::digest(message).to_vec(),
            Self::Sha3_256 => Sha3_256::digest(message).to_vec(),
        }
    }
}

impl Chap {
    pub(crate) fn new(known: Vec<(Credentials, Option<Credentials>)>, challenge: Challenge) -> Self {
        Self { known, challenge, state: State::Start, proved: None }
    }

    /// Who the initiator has proved to be.
    pub(crate) fn proved(&self) -> Option<&Credentials> {
        self.proved.as_ref().filter(|_| self.is_done())
    }

    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Takes the keys of one request that begin with `CHAP_`; what to answer.
    pub(crate) fn step(&mut self, keys: &[Pair]) -> Result<Vec<Pair>, Failed> {
        match self.state {
            State::Start => match value(keys, "CHAP_A") {
                None if keys.is_empty() => Ok(Vec::new()),
                list => self.challenge(list.ok_or(Failed)?),
            },
            State::Challenged(_) if keys.is_empty() => Ok(Vec::new()),
            State::Challenged(algorithm) => self.verify(algorithm, keys),
            State::Done if keys.is_empty() => Ok(Vec::new()),
            State::Done => Err(Failed),
        }
    }

    fn challenge(&mut self, list: &str) -> Result<Vec<Pair>, Failed> {
        let algorithm = Algorithm::choose(list).ok_or(Failed)?;
        self.state = State::Challenged(algorithm);
        Ok(vec![
            pair("CHAP_A", algorithm.number().to_owned()),
            pair("CHAP_I", self.challenge.identifier.to_string()),
            pair("CHAP_C", encode_binary(&self.challenge.bytes)),
        ])
    }

    fn verify(&mut self, algorithm: Algorithm, keys: &[Pair]) -> Result<Vec<Pair>, Failed> {
        let name = value(keys, "CHAP_N").ok_or(Failed)?;
        let response = value(keys, "CHAP_R").and_then(decode_binary).ok_or(Failed)?;
        let Challenge { identifier, bytes } = self.challenge;
        // Both are compared in any case: how long it takes tells nothing of either.
        let knows = |(initiator, _): &&(Credentials, Option<Credentials>)| {
            let expected = algorithm.response(identifier, &initiator.secret, &bytes);
            same(&response, &expected) & (name == initiator.name)
        };
        let (them, us) = self.known.iter().find(knows).ok_or(Failed)?;
        let answer = self.prove(us.as_ref(), algorithm, keys)?;
        self.proved = Some(them.clone());
        self.state = State::Done;
        Ok(answer)
    }

    /// The other direction, if the initiator asks for it.
    fn prove(
        &self,
        us: Option<&Credentials>,
        algorithm: Algorithm,
        keys: &[Pair],
    ) -> Result<Vec<Pair>, Failed> {
        let (identifier, challenge) = match (value(keys, "CHAP_I"), value(keys, "CHAP_C")) {
            (None, None) => return Ok(Vec::new()),
            (Some(identifier), Some(challenge)) => (identifier, challenge),
            _ => return Err(Failed),
        };
        let us = us.ok_or(Failed)?;
        let identifier: u8 = identifier.parse().map_err(|_| Failed)?;
        let challenge = decode_binary(challenge).ok_or(Failed)?;
        // Section 12.1.3: our own challenge sent back would make us answer for the initiator.
        if challenge == self.challenge.bytes {
            return Err(Failed);
        }
        let response = algorithm.response(identifier, &us.secret, &challenge);
        Ok(vec![pair("CHAP_N", us.name.clone()), pair("CHAP_R", encode_binary(&response))])
    }
}

fn value<'a>(keys: &'a [Pair], key: &str) -> Option<&'a str> {
    keys.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
}

fn pair(key: &str, value: String) -> Pair {
    (key.to_owned(), value)
}

/// Compares in a time that depends on the lengths only.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |all, (x, y)| all | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(name: &str, secret: &str) -> Credentials {
        Credentials { name: name.to_owned(), secret: secret.into() }
    }

    fn chap(target: Option<Credentials>) -> Chap {
        let known = vec![(credentials("me", "secret of twelve"), target)];
        Chap::new(known, Challenge { identifier: 9, bytes: [3; 32] })
    }

    fn answer(algorithm: Algorithm, secret: &str) -> Vec<Pair> {
        let response = algorithm.response(9, secret.as_bytes(), &[3; 32]);
        vec![pair("CHAP_N", "me".to_owned()), pair("CHAP_R", encode_binary(&response))]
    }

    #[test]
    fn the_hash_is_that_of_the_rfc() {
        // Made with `printf '\x09secretchallenge' | md5sum`, and so on.
        let hex = |a: Algorithm| encode_binary(&a.response(9, b"secret", b"challenge"));
        assert_eq!(hex(Algorithm::Md5), "0x1f8d5fada0ce0b72a02af93d430026f7");
        assert_eq!(hex(Algorithm::Sha1), "0xc976d8f457812e6c60fefe0fd29ba7b4ca9ef864");
        assert_eq!(
            hex(Algorithm::Sha256),
            "0x6810eb6748d2c2b0531a4a5cb1974ae07cba5dfd6793aca7e4d666dbec406abd"
        );
        assert_eq!(
            hex(Algorithm::Sha3_256),
            "0xb3af1eb4c867aa1cf676ce7f94cc3d196ca6a828cf1f86778b30e0d02f0ff399"
        );
    }

    #[test]
    fn every_algorithm_lets_the_right_secret_in_and_no_other() {
        let all = [
            ("5", Algorithm::Md5),
            ("6,5", Algorithm::Sha1),
            ("9,7", Algorithm::Sha256),
            ("8", Algorithm::Sha3_256),
        ];
        for (list, algorithm) in all {
            let mut right = chap(None);
            let offer = right.step(&[pair("CHAP_A", list.to_owned())]).unwrap();
            assert_eq!(offer[0].1, algorithm.number());
            assert_eq!(right.step(&answer(algorithm, "secret of twelve")), Ok(vec![]));
            assert!(right.is_done());
            let mut wrong = chap(None);
            wrong.step(&[pair("CHAP_A", list.to_owned())]).unwrap();
            assert_eq!(wrong.step(&answer(algorithm, "secret of thirteen")), Err(Failed));
            assert!(!wrong.is_done());
        }
        assert_eq!(chap(None).step(&[pair("CHAP_A", "4,9".to_owned())]), Err(Failed));
    }

    #[test]
    fn we_prove_who_we_are_but_never_with_our_own_challenge() {
        let us = Some(credentials("us", "another secret"));
        let ask = |bytes: &[u8]| {
            let mut keys = answer(Algorithm::Sha256, "secret of twelve");
            keys.push(pair("CHAP_I", "77".to_owned()));
            keys.push(pair("CHAP_C", encode_binary(bytes)));
            keys
        };
        let start = |target| {
            let mut chap = chap(target);
            chap.step(&[pair("CHAP_A", "7".to_owned())]).unwrap();
            chap
        };
        let proof = start(us.clone()).step(&ask(&[5; 16])).unwrap();
        let expected = Algorithm::Sha256.response(77, b"another secret", &[5; 16]);
        assert_eq!(proof, [pair("CHAP_N", "us".to_owned()), pair("CHAP_R", encode_binary(&expected))]);
        assert_eq!(start(us).step(&ask(&[3; 32])), Err(Failed));
        assert_eq!(start(None).step(&ask(&[5; 16])), Err(Failed), "we have no secret to prove it with");
    }
}
