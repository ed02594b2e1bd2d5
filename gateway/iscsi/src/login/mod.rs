//! The login phase (RFC 7143 sections 6 and 11.12): security, operational parameters, and how it ends.

pub(crate) mod chap;
pub(crate) mod params;
pub(crate) mod status;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::connection::Limits;
use crate::pdu::{CONTINUE, FINAL, Header, Pdu, opcode};
use crate::scsi::reservation::InitiatorPort;
use crate::target::{Admission, Target};
use crate::text::{self, Pair};
use chap::{Access, Challenge, Chap, Credentials};
use params::{Answer, Params};
use status::LoginStatus;

/// Login requests before an initiator has to be done.
const MAX_REQUESTS: u32 = 64;

/// The longest iSCSI name (section 4.2.7.2).
const MAX_NAME: usize = 223;

/// Current and next stage (section 11.12.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Security,
    Operational,
    FullFeature,
}

/// The login phase of one connection.
#[derive(Debug)]
pub(crate) struct Login {
    portal: Portal,
    stage: Option<Stage>,
    /// Of the first request; all of a login agree.
    first: Option<Header>,
    requests: u32,
    text: BytesMut,
    named: Option<Named>,
    target: Option<(Arc<Target>, Arc<Admission>)>,
    chap: Option<Chap>,
    authenticated: bool,
    params: Params,
    negotiated: Vec<Pair>,
    told_group: bool,
    told_length: bool,
}

/// Who wants what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Named {
    initiator: String,
    target: Option<String>,
    discovery: bool,
}

/// What the driver knows of where the connection came in.
#[derive(Debug, Clone)]
pub(crate) struct Portal {
    /// Who may ask for the list of targets.
    pub(crate) discovery: Access,
    pub(crate) challenge: Challenge,
    pub(crate) limits: Limits,
}

/// What a request comes to.
#[derive(Debug)]
pub(crate) enum LoginStep {
    /// This answer.
    Answer(Pdu),
    /// The target has to be looked up, then the same request comes again.
    Resolve(String, String),
    /// All is agreed; this answer is completed with the session's TSIH.
    Done(Pdu, Ended),
    /// The login fails with this answer.
    Failed(Pdu, LoginStatus),
}

/// What was agreed.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) params: Params,
    pub(crate) port: InitiatorPort,
    /// The target, and by which rules it was logged in to; `None` for discovery.
    pub(crate) target: Option<(Arc<Target>, Arc<Admission>)>,
    /// What was proved by CHAP.
    pub(crate) proved: Option<Credentials>,
    pub(crate) tsih: u16,
    pub(crate) cid: u16,
    /// Of the first request.
    pub(crate) cmd_sn: u32,
}

impl Login {
    pub(crate) fn new(portal: Portal) -> Self {
        Self {
            portal,
            stage: None,
            first: None,
            requests: 0,
            text: BytesMut::new(),
            named: None,
            target: None,
            chap: None,
            authenticated: false,
            params: Params::default(),
            negotiated: Vec::new(),
            told_group: false,
            told_length: false,
        }
    }

    /// The answer to [`LoginStep::Resolve`].
    pub(crate) fn handle_resolved(&mut self, target: Arc<Target>) {
        let admission = target.admission();
        self.target = Some((target, admission));
    }

    /// One request.
    pub(crate) fn step(&mut self, pdu: &Pdu) -> LoginStep {
        match self.take(pdu) {
            Ok(step) => step,
            Err(status) => LoginStep::Failed(failure(&pdu.header, status), status),
        }
    }

    fn take(&mut self, pdu: &Pdu) -> Result<LoginStep, LoginStatus> {
        let header = pdu.header;
        self.check(&header)?;
        if self.text.len() + pdu.data.len() > self.portal.limits.text {
            return Err(LoginStatus::InitiatorError);
        }
        self.text.extend_from_slice(&pdu.data);
        if header.flags() & CONTINUE != 0 {
            // Section 6.2: an empty answer asks for the rest.
            return match header.is_final() {
                true => Err(LoginStatus::InitiatorError),
                false => Ok(LoginStep::Answer(self.answer(&header, 0, &[]))),
            };
        }
        let pairs = text::parse(&self.text).map_err(|_| LoginStatus::InitiatorError)?;
        self.name(&pairs)?;
        if let Some(resolve) = self.unresolved() {
            // The same request is looked at again.
            let again = self.text.len() - pdu.data.len();
            self.text.truncate(again);
            return Ok(resolve);
        }
        self.text.clear();
        self.authorize(&pairs)?;
        let answers = self.negotiate(&pairs)?;
        self.transit(&header, &answers)
    }

    /// The target that has to be looked up first.
    fn unresolved(&self) -> Option<LoginStep> {
        let named = self.named.as_ref().filter(|named| self.target.is_none() && !named.discovery)?;
        Some(LoginStep::Resolve(named.target.clone()?, named.initiator.clone()))
    }

    fn initiator(&self) -> &str {
        self.named.as_ref().map_or("", |named| &named.initiator)
    }

    /// The header against those before it (section 11.12).
    fn check(&mut self, header: &Header) -> Result<(), LoginStatus> {
        if header.opcode() != opcode::LOGIN {
            return Err(LoginStatus::InvalidRequest);
        }
        self.requests += 1;
        if self.requests > MAX_REQUESTS {
            return Err(LoginStatus::InitiatorError);
        }
        // Version-min: ours is 0, the only one there is.
        if header.byte(3) != 0 {
            return Err(LoginStatus::UnsupportedVersion);
        }
        let stage = match header.flags() >> 2 & 0x03 {
            0 => Stage::Security,
            1 => Stage::Operational,
            _ => return Err(LoginStatus::InitiatorError),
        };
        let first = self.first.get_or_insert(*header);
        // ISID, TSIH, ITT and CID stay.
        let same = first.lun() == header.lun() && first.itt() == header.itt() && first.ttt() == header.ttt();
        if !same || self.stage.is_some_and(|current| current != stage) {
            return Err(LoginStatus::InitiatorError);
        }
        self.stage = Some(stage);
        Ok(())
    }

    /// The keys that say who wants what; all of them come with the first request (section 6.3), and none of
    /// them changes afterwards: what was proved would be proved for somebody else.
    fn name(&mut self, pairs: &[Pair]) -> Result<(), LoginStatus> {
        let mut named = self.named.clone().unwrap_or_default();
        for (key, value) in pairs {
            match key.as_str() {
                "InitiatorName" => named.initiator.clone_from(value),
                "TargetName" => named.target = Some(value.clone()),
                "SessionType" => match value.as_str() {
                    "Discovery" => named.discovery = true,
                    "Normal" => named.discovery = false,
                    _ => return Err(LoginStatus::SessionType),
                },
                _ => {}
            }
        }
        if self.named.as_ref().is_some_and(|before| *before != named) {
            return Err(LoginStatus::InitiatorError);
        }
        if named.initiator.is_empty() || named.initiator.len() > MAX_NAME {
            return Err(LoginStatus::MissingParameter);
        }
        if named.target.is_none() && !named.discovery {
            return Err(LoginStatus::MissingParameter);
        }
        self.named = Some(named);
        Ok(())
    }

    /// What the initiator has to prove, known once the target is.
    fn authorize(&mut self, pairs: &[Pair]) -> Result<(), LoginStatus> {
        if self.chap.is_some() || self.authenticated {
            return Ok(());
        }
        let access = match &self.target {
            Some((_, admission)) if !admission.admits(self.initiator()) => {
                return Err(LoginStatus::NotAuthorized);
            }
            Some((_, admission)) => &admission.access,
            None => &self.portal.discovery,
        };
        match access {
            Access::Open => self.authenticated = true,
            Access::Chap { initiator, target } => {
                let known = vec![(initiator.clone(), target.clone())];
                self.chap = Some(Chap::new(known, self.portal.challenge));
            }
            // What it offers decides.
            Access::Optional { known } => match methods(pairs) {
                Some(methods) if !offers(methods, "None") => {
                    self.chap = Some(Chap::new(known.clone(), self.portal.challenge));
                }
                _ => self.authenticated = true,
            },
        }
        Ok(())
    }

    fn negotiate(&mut self, pairs: &[Pair]) -> Result<Vec<Pair>, LoginStatus> {
        let mut answers = Vec::new();
        if self.stage == Some(Stage::Security) {
            self.security(pairs, &mut answers)?;
        } else if !self.is_authenticated() {
            // The security stage was left out.
            return Err(LoginStatus::AuthenticationFailed);
        }
        for (key, value) in pairs.iter().filter(|(key, _)| !is_security(key)) {
            self.operational(key, value, &mut answers)?;
        }
        self.declare(&mut answers);
        Ok(answers)
    }

    fn is_authenticated(&self) -> bool {
        self.authenticated || self.chap.as_ref().is_some_and(Chap::is_done)
    }

    /// Sections 12 and 13: AuthMethod, then the method's own keys.
    fn security(&mut self, pairs: &[Pair], answers: &mut Vec<Pair>) -> Result<(), LoginStatus> {
        if let Some(methods) = methods(pairs) {
            let wanted = if self.chap.is_some() { "CHAP" } else { "None" };
            if !offers(methods, wanted) {
                return Err(LoginStatus::AuthenticationFailed);
            }
            answers.push(("AuthMethod".to_owned(), wanted.to_owned()));
        }
        let keys: Vec<Pair> = pairs.iter().filter(|(key, _)| key.starts_with("CHAP_")).cloned().collect();
        match &mut self.chap {
            Some(chap) => {
                answers.extend(chap.step(&keys).map_err(|_| LoginStatus::AuthenticationFailed)?);
            }
            None if keys.is_empty() => {}
            None => return Err(LoginStatus::InitiatorError),
        }
        Ok(())
    }

    fn operational(&mut self, key: &str, value: &str, answers: &mut Vec<Pair>) -> Result<(), LoginStatus> {
        if matches!(key, "InitiatorName" | "InitiatorAlias" | "TargetName" | "SessionType") {
            return Ok(());
        }
        // Section 6.3: a key is negotiated once; the same offer again gets the same answer.
        match self.negotiated.iter().find(|(known, _)| known == key) {
            Some((_, before)) if before != value => return Err(LoginStatus::InitiatorError),
            Some(_) => {}
            None if self.negotiated.len() >= self.portal.limits.keys => {
                return Err(LoginStatus::InitiatorError);
            }
            None => self.negotiated.push((key.to_owned(), value.to_owned())),
        }
        let answer = match self.params.negotiate(key, value, &self.portal.limits) {
            Answer::None => return Ok(()),
            Answer::Value(value) => value,
            Answer::Reject => "Reject".to_owned(),
            Answer::NotUnderstood => "NotUnderstood".to_owned(),
        };
        answers.push((key.to_owned(), answer));
        Ok(())
    }

    /// What we have to say of ourselves, once.
    fn declare(&mut self, answers: &mut Vec<Pair>) {
        if let Some((target, _)) = self.target.as_ref().filter(|_| !self.told_group) {
            // Section 13.9: in the first answer after TargetName.
            answers.push(("TargetPortalGroupTag".to_owned(), "1".to_owned()));
            if !target.alias().is_empty() {
                answers.push(("TargetAlias".to_owned(), target.alias().to_owned()));
            }
            self.told_group = true;
        }
        if self.stage == Some(Stage::Operational) && !self.told_length {
            let most = self.portal.limits.max_receive.to_string();
            answers.push(("MaxRecvDataSegmentLength".to_owned(), most));
            self.told_length = true;
        }
    }

    /// Section 6.1: the stage ends when both want it to.
    fn transit(&mut self, header: &Header, answers: &[Pair]) -> Result<LoginStep, LoginStatus> {
        if !header.is_final() {
            return Ok(LoginStep::Answer(self.answer(header, 0, answers)));
        }
        let next = match header.flags() & 0x03 {
            1 => Stage::Operational,
            3 => Stage::FullFeature,
            _ => return Err(LoginStatus::InitiatorError),
        };
        if self.stage.is_some_and(|current| current >= next) {
            return Err(LoginStatus::InitiatorError);
        }
        if !self.is_authenticated() {
            return Ok(LoginStep::Answer(self.answer(header, 0, answers)));
        }
        let flags = FINAL | header.flags() & 0x03;
        let answer = self.answer(header, flags, answers);
        if next == Stage::Operational {
            self.stage = Some(next);
            return Ok(LoginStep::Answer(answer));
        }
        Ok(LoginStep::Done(answer, self.end(header)))
    }

    fn end(&mut self, header: &Header) -> Ended {
        let first = self.first.unwrap_or(*header);
        let [a, b, c, d, e, f, g, h] = first.lun().to_be_bytes();
        self.params.settle();
        Ended {
            params: self.params,
            port: InitiatorPort { name: self.initiator().to_owned(), isid: [a, b, c, d, e, f] },
            target: self.target.clone(),
            proved: self.chap.as_ref().and_then(|chap| chap.proved().cloned()),
            tsih: u16::from_be_bytes([g, h]),
            cid: u16::from_be_bytes([first.byte(20), first.byte(21)]),
            cmd_sn: first.word(24),
        }
    }

    fn answer(&self, header: &Header, transit: u8, answers: &[Pair]) -> Pdu {
        let flags = transit | header.flags() & 0x0c;
        let data = Bytes::from(text::encode(answers));
        Pdu { header: response(header).with_flags(flags), data }
    }
}

/// ISID, TSIH and ITT come back.
fn response(header: &Header) -> Header {
    Header::new(opcode::LOGIN_RESPONSE).with(8, &header.lun().to_be_bytes()).with_itt(header.itt())
}

/// The answer to a login that fails.
pub(crate) fn failure(header: &Header, status: LoginStatus) -> Pdu {
    let header = response(header).with_flags(header.flags() & 0x0c).with(36, &status.code());
    Pdu { header, data: Bytes::new() }
}

/// How the initiator is ready to prove who it is, most wanted first.
fn methods(pairs: &[Pair]) -> Option<&str> {
    pairs.iter().find(|(key, _)| key == "AuthMethod").map(|(_, methods)| methods.as_str())
}

fn offers(methods: &str, wanted: &str) -> bool {
    methods.split(',').any(|method| method == wanted)
}

fn is_security(key: &str) -> bool {
    key == "AuthMethod" || key.starts_with("CHAP_")
}
