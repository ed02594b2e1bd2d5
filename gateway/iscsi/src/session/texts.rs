//! Text requests in the full feature phase (RFC 7143 section 11.10): SendTargets, above all (appendix C).

use bytes::{Bytes, BytesMut};
use tap_block::Output;

use super::{Session, reason};
use crate::connection::Action;
use crate::login::params::Answer;
use crate::pdu::{CONTINUE, FINAL, Header, NO_TAG, Pdu, opcode};
use crate::text::{self, Pair};

/// A negotiation under way.
#[derive(Debug, Default)]
pub(super) struct Texts {
    request: BytesMut,
    /// The request that waits for the list of targets, and what else it is answered.
    listing: Option<(Header, Vec<Pair>, String)>,
    /// The rest of a long answer and the tag by which it is asked for.
    rest: Bytes,
    ttt: u32,
}

impl Texts {
    pub(super) fn is_listing(&self) -> bool {
        self.listing.is_some()
    }
}

impl Session {
    pub(super) fn text(&mut self, pdu: &Pdu, output: &mut Output) {
        let header = pdu.header;
        if !self.texts.rest.is_empty() && header.ttt() == self.texts.ttt && pdu.data.is_empty() {
            return self.text_answer(&header, output);
        }
        self.texts.rest = Bytes::new();
        if self.texts.request.len() + pdu.data.len() > self.limits.text {
            self.texts.request.clear();
            return self.reject(&header, reason::PROTOCOL, output);
        }
        self.texts.request.extend_from_slice(&pdu.data);
        if header.flags() & CONTINUE != 0 {
            // The rest comes after an empty answer.
            let ttt = self.transfer_tag();
            return self.send_text(&header, 0, ttt, Bytes::new(), output);
        }
        let request = self.texts.request.split();
        match text::parse(&request) {
            Ok(pairs) => self.text_pairs(header, &pairs, output),
            Err(_) => self.reject(&header, reason::PROTOCOL, output),
        }
    }

    fn text_pairs(&mut self, header: Header, pairs: &[Pair], output: &mut Output) {
        let mut answers = Vec::new();
        let mut asked = None;
        for (key, value) in pairs {
            match key.as_str() {
                "SendTargets" => asked = Some(value.clone()),
                "MaxRecvDataSegmentLength" => {
                    if self.params.negotiate(key, value, &self.limits) == Answer::Reject {
                        answers.push((key.clone(), "Reject".to_owned()));
                    }
                }
                "InitiatorAlias" => {}
                // What else there is was settled at login (section 13).
                _ => {
                    let answer = match self.params.clone().negotiate(key, value, &self.limits) {
                        Answer::NotUnderstood => "NotUnderstood",
                        _ => "Reject",
                    };
                    answers.push((key.clone(), answer.to_owned()));
                }
            }
        }
        match asked {
            None => self.text_done(&header, &answers, output),
            Some(asked) => {
                let initiator = self.initiator();
                self.texts.listing = Some((header, answers, asked));
                self.actions.push_back(Action::List { initiator });
            }
        }
    }

    fn initiator(&self) -> String {
        self.port.name.clone()
    }

    /// The names of all targets that this initiator may see.
    pub(crate) fn handle_list(&mut self, names: &[String], portal: &str, output: &mut Output) {
        let Some((header, mut answers, asked)) = self.texts.listing.take() else { return };
        // Appendix C: all of them in discovery; in a normal session its own target only, listed or not.
        let told: Vec<&str> = match &self.membership {
            None => {
                names.iter().map(String::as_str).filter(|name| asked == "All" || asked == *name).collect()
            }
            Some(membership) => {
                let ours = membership.target.name();
                (asked.is_empty() || asked == ours).then_some(ours).into_iter().collect()
            }
        };
        for name in told {
            answers.push(("TargetName".to_owned(), name.to_owned()));
            answers.push(("TargetAddress".to_owned(), format!("{portal},1")));
        }
        self.text_done(&header, &answers, output);
    }

    fn text_done(&mut self, header: &Header, answers: &[Pair], output: &mut Output) {
        self.texts.rest = text::encode(answers).into();
        self.text_answer(header, output);
    }

    /// As much of the answer as the initiator takes at once.
    fn text_answer(&mut self, header: &Header, output: &mut Output) {
        let most = usize::try_from(self.params.max_send).unwrap_or(0);
        let length = self.texts.rest.len().min(most);
        let data = self.texts.rest.split_to(length);
        if self.texts.rest.is_empty() {
            return self.send_text(header, FINAL, NO_TAG, data, output);
        }
        self.texts.ttt = self.transfer_tag();
        self.send_text(header, CONTINUE, self.texts.ttt, data, output);
    }

    fn send_text(&mut self, header: &Header, flags: u8, ttt: u32, data: Bytes, output: &mut Output) {
        let answer = Header::new(opcode::TEXT_RESPONSE)
            .with_flags(flags)
            .with(8, &header.lun().to_be_bytes())
            .with_itt(header.itt())
            .with_ttt(ttt);
        self.send_status(answer, data, output);
    }
}
