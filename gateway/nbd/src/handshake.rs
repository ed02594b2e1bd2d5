//! The handshake phase: flags, then options until the client has chosen an export.
//!
//! Whatever the client asks for gets an answer and leaves the stream in step ("Baseline": a server must not
//! fail to parse the message after one it does not implement).

use std::sync::Arc;

use bytes::{Buf, BufMut, BytesMut};
use tap_block::{Geometry, Map, Name, Output};

use crate::contexts::{Inquiry, MAX_CONTEXTS, name_of};
use crate::proto::{
    INIT_MAGIC, MAX_STRING, MIN_BLOCK, OFFERED_PAYLOAD, OPTION_MAGIC, OPTION_REPLY_MAGIC, PREFERRED_BLOCK,
    export_flag, handshake_flag, info, option, reply,
};
use crate::reply::{Style, shortened};
use crate::server::{Action, CloseReason, ExportInfo, ListEntry, Refusal, Step, Tls, Wants};

/// Magic, option, length.
const OPTION_HEADER: usize = 16;
/// The longest data of an option that is looked at: a name and some thousands of information requests.
const MAX_OPTION: u32 = 16 << 10;
/// Up to this much data of an option is skipped so that it can be refused politely; more is no option.
const MAX_SKIPPED: u32 = 16 << 20;
/// A client that has sent so many options haggles for its own sake.
const MAX_OPTIONS: u32 = 10_000;
/// No further option is answered while more than this waits to be written.
const MAX_OUTPUT: usize = 64 << 10;

/// What the handshake settled.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) geometry: Geometry,
    pub(crate) style: Style,
    pub(crate) contexts: Arc<[Map]>,
}

/// The contexts that the client has set, and the export it did so for.
#[derive(Debug)]
struct Selected {
    export: String,
    contexts: Arc<[Map]>,
}

/// The handshake so far.
#[derive(Debug)]
pub(crate) struct Handshake {
    stage: Stage,
    no_zeroes: bool,
    options: u32,
    tls: Tls,
    /// TLS is at work.
    secure: bool,
    /// The client knows errors, without which TLS must not be offered to it.
    fixed: bool,
    style: Style,
    selected: Option<Selected>,
}

#[derive(Debug)]
enum Stage {
    ClientFlags,
    Option,
    /// Dropping the data of an option, then refusing it.
    Skip {
        left: u32,
        option: u32,
        error: u32,
        text: &'static str,
    },
    /// The caller is starting TLS.
    StartingTls,
    /// The caller is listing the exports.
    Listing,
    /// The caller is looking up the export.
    Resolving(Choice),
    /// The same, to be told of its contexts.
    Inquiring(Inquiry),
    /// The caller is to be asked for this export's bookmarks, or has been.
    Bookmarks {
        inquiry: Inquiry,
        export: String,
        asked: bool,
    },
    /// The caller's answer ended the handshake.
    Chosen(Session),
    /// The connection ends.
    Over(CloseReason),
}

/// What the client asked for an export by.
#[derive(Debug)]
struct Choice {
    option: u32,
    wants_name: bool,
    wants_description: bool,
    wants_block_size: bool,
}

/// An option's header.
struct Header {
    option: u32,
    length: u32,
}

impl Handshake {
    /// "Newstyle negotiation": the server speaks first.
    pub(crate) fn new(output: &mut Output, tls: Tls) -> Self {
        output.push(&INIT_MAGIC.to_be_bytes());
        output.push(&OPTION_MAGIC.to_be_bytes());
        output.push(&(handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES).to_be_bytes());
        Self::fresh(tls)
    }

    const fn fresh(tls: Tls) -> Self {
        Self {
            stage: Stage::ClientFlags,
            no_zeroes: false,
            options: 0,
            tls,
            secure: false,
            fixed: false,
            style: Style::Simple,
            selected: None,
        }
    }

    /// "TLS support": what was negotiated in the open is forgotten; only the client's flags, which it does not send again, and
    /// how much it has haggled are kept.
    pub(crate) fn handle_tls_started(&mut self) {
        if matches!(self.stage, Stage::StartingTls) {
            let Self { no_zeroes, options, fixed, tls, .. } = *self;
            *self =
                Self { stage: Stage::Option, no_zeroes, options, fixed, secure: true, ..Self::fresh(tls) };
        }
    }

    pub(crate) fn step(&mut self, input: &mut BytesMut, output: &mut Output, stopping: bool) -> Step {
        match &mut self.stage {
            Stage::ClientFlags => self.client_flags(input),
            Stage::Option => self.option(input, output, stopping),
            Stage::Skip { .. } => self.skip(input, output),
            Stage::Bookmarks { inquiry, asked, .. } if !*asked => {
                *asked = true;
                let (named, newest) = inquiry.bookmarks().unwrap_or_default();
                Step::Act(Action::Bookmarks { named, newest })
            }
            Stage::StartingTls
            | Stage::Listing
            | Stage::Resolving(_)
            | Stage::Inquiring(_)
            | Stage::Bookmarks { .. } => Step::Wait,
            Stage::Chosen(session) => Step::Enter(session.clone()),
            Stage::Over(reason) => Step::Act(Action::Close(reason.clone())),
        }
    }

    /// Has an export been chosen?
    pub(crate) const fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Chosen(_))
    }

    pub(crate) fn wants(&self, input: &[u8], output: &Output) -> Wants {
        match &self.stage {
            Stage::ClientFlags => Wants::Input(4),
            Stage::Skip { .. } => Wants::Input(1),
            Stage::Option if output.len() > MAX_OUTPUT => Wants::Nothing,
            Stage::Option => Wants::Input(match peek_header(input) {
                Some(Ok(header)) => OPTION_HEADER + header.length.min(MAX_OPTION) as usize,
                _ => OPTION_HEADER,
            }),
            _ => Wants::Nothing,
        }
    }

    /// "Client flags": unknown ones, or ones the server did not offer, end the connection.
    fn client_flags(&mut self, input: &mut BytesMut) -> Step {
        let Ok(flags) = input.try_get_u32() else {
            return Step::Wait;
        };
        let known = u32::from(handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES);
        if flags & !known != 0 {
            return self.over(CloseReason::UnknownClientFlags(flags));
        }
        // A client without C_FIXED_NEWSTYLE is served all the same: "Servers MAY choose to honour".
        self.no_zeroes = flags & u32::from(handshake_flag::NO_ZEROES) != 0;
        self.fixed = flags & u32::from(handshake_flag::FIXED_NEWSTYLE) != 0;
        self.stage = Stage::Option;
        Step::Again
    }

    fn option(&mut self, input: &mut BytesMut, output: &mut Output, stopping: bool) -> Step {
        if output.len() > MAX_OUTPUT {
            return Step::Wait;
        }
        let header = match peek_header(input) {
            None => return Step::Wait,
            Some(Err(magic)) => return self.over(CloseReason::BadOptionMagic(magic)),
            Some(Ok(header)) => header,
        };
        if let Some(step) = self.refuse_unseen(&header, input, stopping) {
            return step;
        }
        let whole = OPTION_HEADER + header.length as usize;
        if input.len() < whole {
            return Step::Wait;
        }
        self.options += 1;
        let message = input.split_to(whole);
        if header.option == option::STARTTLS {
            return self.start_tls(input, output);
        }
        self.answer(header.option, message.get(OPTION_HEADER..).unwrap_or_default(), output)
    }

    /// Options that are refused without a look at their data.
    fn refuse_unseen(&mut self, header: &Header, input: &mut BytesMut, stopping: bool) -> Option<Step> {
        if header.length > MAX_SKIPPED {
            return Some(self.over(CloseReason::AbsurdOption(header.length)));
        }
        if self.options >= MAX_OPTIONS {
            return Some(self.over(CloseReason::TooManyOptions));
        }
        let (error, text) = match header.option {
            // Any data of an abort is ignored, so none of it is kept.
            option::ABORT if header.length > MAX_OPTION => return Some(self.over(CloseReason::Disconnected)),
            option::ABORT => return None,
            // "Termination of the session during option haggling".
            _ if stopping => (reply::ERR_SHUTDOWN, "the server is shutting down"),
            option::STARTTLS => self.refuse_tls(header.length)?,
            // "FORCEDTLS mode".
            option::EXPORT_NAME if self.is_open() => return Some(self.over(CloseReason::TlsRequired)),
            _ if self.is_open() => (reply::ERR_TLS_REQD, "this server speaks to nobody without TLS"),
            option::EXPORT_NAME if header.length as usize > MAX_STRING => {
                return Some(self.over(CloseReason::ExportRefused("the name is too long".to_owned())));
            }
            option::EXPORT_NAME if self.style == Style::Extended => {
                let text = "with extended headers an export is opened by NBD_OPT_GO";
                return Some(self.over(CloseReason::ExportRefused(text.to_owned())));
            }
            option::EXPORT_NAME
            | option::LIST
            | option::INFO
            | option::GO
            | option::STRUCTURED_REPLY
            | option::LIST_META_CONTEXT
            | option::SET_META_CONTEXT
            | option::EXTENDED_HEADERS => {
                if header.length <= MAX_OPTION {
                    return None;
                }
                (reply::ERR_TOO_BIG, "the option is too long")
            }
            _ => (reply::ERR_UNSUP, "this server does not know the option"),
        };
        if stopping && header.option == option::EXPORT_NAME {
            return Some(self.over(CloseReason::ExportRefused(text.to_owned())));
        }
        self.options += 1;
        input.advance(OPTION_HEADER);
        self.stage = Stage::Skip { left: header.length, option: header.option, error, text };
        Some(Step::Again)
    }

    /// Must the client start TLS before anything else?
    fn is_open(&self) -> bool {
        self.tls == Tls::Required && !self.secure
    }

    /// Why TLS cannot be started, if it cannot.
    fn refuse_tls(&self, length: u32) -> Option<(u32, &'static str)> {
        if self.tls == Tls::Off || !self.fixed {
            return Some((reply::ERR_POLICY, "TLS is not switched on here"));
        }
        if self.secure {
            return Some((reply::ERR_INVALID, "TLS is at work already"));
        }
        (length > 0).then_some((reply::ERR_INVALID, "NBD_OPT_STARTTLS takes no data"))
    }

    /// What a client has sent behind this option was sent before TLS began, by it or by somebody between: it must never pass for
    /// something said under TLS.
    fn start_tls(&mut self, input: &BytesMut, output: &mut Output) -> Step {
        if !input.is_empty() {
            return self.over(CloseReason::BehindStartTls);
        }
        push_reply(output, option::STARTTLS, reply::ACK, &[]);
        self.stage = Stage::StartingTls;
        Step::Act(Action::StartTls)
    }

    fn skip(&mut self, input: &mut BytesMut, output: &mut Output) -> Step {
        if let Stage::Skip { left, option, error, text } = &mut self.stage {
            *left -= drop_front(input, *left);
            if *left > 0 {
                return Step::Wait;
            }
            push_reply(output, *option, *error, text.as_bytes());
            self.stage = Stage::Option;
        }
        Step::Again
    }

    /// "Option types", one by one.
    fn answer(&mut self, option: u32, data: &[u8], output: &mut Output) -> Step {
        match option {
            option::ABORT => {
                push_reply(output, option, reply::ACK, &[]);
                self.over(CloseReason::Disconnected)
            }
            option::LIST if data.is_empty() => {
                self.stage = Stage::Listing;
                Step::Act(Action::List)
            }
            option::LIST => {
                push_reply(output, option, reply::ERR_INVALID, b"NBD_OPT_LIST takes no data");
                Step::Again
            }
            option::EXPORT_NAME => match name(data) {
                Ok(name) => self.resolve(Choice::by_name_alone(), name),
                Err(text) => self.over(CloseReason::ExportRefused(text.to_owned())),
            },
            option::STRUCTURED_REPLY | option::EXTENDED_HEADERS => {
                self.change_style(option, data, output);
                Step::Again
            }
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.inquire(option, data, output),
            _ => match Choice::parse(option, data) {
                Ok((choice, name)) => self.resolve(choice, name),
                Err(text) => {
                    push_reply(output, option, reply::ERR_INVALID, text.as_bytes());
                    Step::Again
                }
            },
        }
    }

    /// `NBD_OPT_STRUCTURED_REPLY` and `NBD_OPT_EXTENDED_HEADERS`, which takes precedence over it.
    fn change_style(&mut self, option: u32, data: &[u8], output: &mut Output) {
        let refused: Option<(u32, &str)> = match (option, self.style) {
            _ if !data.is_empty() => Some((reply::ERR_INVALID, "the option takes no data")),
            (option::STRUCTURED_REPLY, Style::Extended) => {
                Some((reply::ERR_EXT_HEADER_REQD, "extended headers are in use already"))
            }
            (option::STRUCTURED_REPLY, Style::Structured) | (option::EXTENDED_HEADERS, Style::Extended) => {
                Some((reply::ERR_INVALID, "that is in use already"))
            }
            _ => None,
        };
        if let Some((error, text)) = refused {
            return push_reply(output, option, error, text.as_bytes());
        }
        self.style = if option == option::EXTENDED_HEADERS { Style::Extended } else { Style::Structured };
        push_reply(output, option, reply::ACK, &[]);
    }

    /// `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT`.
    fn inquire(&mut self, option: u32, data: &[u8], output: &mut Output) -> Step {
        if option == option::SET_META_CONTEXT {
            // "Issuing this command replaces all previously-set metadata contexts (including when it fails)".
            self.selected = None;
        }
        let parsed = match self.style {
            Style::Simple => Err((reply::ERR_INVALID, "structured replies must be negotiated first")),
            _ => Inquiry::parse(option, data),
        };
        let parsed = parsed.and_then(|(inquiry, bytes)| match name(bytes) {
            Ok(name) => Ok((inquiry, name)),
            Err(text) => Err((reply::ERR_INVALID, text)),
        });
        match parsed {
            Ok((inquiry, name)) => {
                self.stage = Stage::Inquiring(inquiry);
                Step::Act(Action::Resolve { name })
            }
            Err((error, text)) => {
                push_reply(output, option, error, text.as_bytes());
                Step::Again
            }
        }
    }

    fn resolve(&mut self, choice: Choice, name: String) -> Step {
        self.stage = Stage::Resolving(choice);
        Step::Act(Action::Resolve { name })
    }

    fn over(&mut self, reason: CloseReason) -> Step {
        self.stage = Stage::Over(reason);
        Step::Again
    }

    /// `NBD_OPT_LIST`: an `NBD_REP_SERVER` for each export, then `NBD_REP_ACK`.
    pub(crate) fn handle_list(&mut self, exports: &[ListEntry], output: &mut Output) {
        if !matches!(self.stage, Stage::Listing) {
            return;
        }
        for export in exports {
            let Ok(length) = u32::try_from(export.name.len()) else { continue };
            if export.name.len() > MAX_STRING {
                continue;
            }
            let mut data = BytesMut::new();
            data.put_u32(length);
            data.put_slice(export.name.as_bytes());
            data.put_slice(shortened(&export.description).as_bytes());
            push_reply(output, option::LIST, reply::SERVER, &data);
        }
        push_reply(output, option::LIST, reply::ACK, &[]);
        self.stage = Stage::Option;
    }

    pub(crate) fn handle_resolved(&mut self, resolved: Result<ExportInfo, Refusal>, output: &mut Output) {
        self.stage = match std::mem::replace(&mut self.stage, Stage::Option) {
            Stage::Resolving(choice) => self.choose(&choice, resolved, output),
            Stage::Inquiring(inquiry) => match resolved {
                Ok(export) if inquiry.bookmarks().is_some() => {
                    Stage::Bookmarks { inquiry, export: export.name, asked: false }
                }
                Ok(export) => {
                    self.answer_inquiry(&inquiry, export.name, &[], output);
                    Stage::Option
                }
                Err(refusal) => {
                    push_refusal(output, inquiry.option(), &refusal);
                    Stage::Option
                }
            },
            other => other,
        };
    }

    fn choose(&self, choice: &Choice, resolved: Result<ExportInfo, Refusal>, output: &mut Output) -> Stage {
        match (resolved, choice.option) {
            (Ok(export), option::EXPORT_NAME) => {
                let session = self.session(&export);
                push_export(output, &export, session.flags(), self.no_zeroes);
                Stage::Chosen(session)
            }
            (Ok(export), option) => {
                let session = self.session(&export);
                choice.push_infos(&export, session.flags(), output);
                push_reply(output, option, reply::ACK, &[]);
                if option == option::GO { Stage::Chosen(session) } else { Stage::Option }
            }
            // "If the server is unwilling to allow the export, it MUST terminate the session."
            (Err(Refusal::Unknown(text) | Refusal::Policy(text)), option::EXPORT_NAME) => {
                Stage::Over(CloseReason::ExportRefused(text))
            }
            (Err(refusal), option) => {
                push_refusal(output, option, &refusal);
                Stage::Option
            }
        }
    }

    /// What the client would enter with this export. Contexts set for another one are not in use.
    fn session(&self, export: &ExportInfo) -> Session {
        let selected = self.selected.as_ref().filter(|selected| selected.export == export.name);
        let contexts = selected.map(|selected| Arc::clone(&selected.contexts)).unwrap_or_default();
        Session { geometry: export.geometry, style: self.style, contexts }
    }

    pub(crate) fn handle_bookmarks(&mut self, found: &[Name], output: &mut Output) {
        match std::mem::replace(&mut self.stage, Stage::Option) {
            Stage::Bookmarks { inquiry, export, asked: true } => {
                self.answer_inquiry(&inquiry, export, found, output);
            }
            other => self.stage = other,
        }
    }

    /// An `NBD_REP_META_CONTEXT` for each context, then `NBD_REP_ACK`.
    fn answer_inquiry(&mut self, inquiry: &Inquiry, export: String, found: &[Name], output: &mut Output) {
        let (option, contexts) = (inquiry.option(), inquiry.select(found));
        if !inquiry.lists() && contexts.len() > MAX_CONTEXTS {
            let text = "more than 16 contexts are selected at once";
            return push_reply(output, option, reply::ERR_TOO_BIG, text.as_bytes());
        }
        for (number, context) in (0_u32..).zip(&contexts) {
            let mut data = BytesMut::new();
            // "The metadata context ID in these replies is reserved" when they are only listed.
            data.put_u32(if inquiry.lists() { 0 } else { number });
            data.put_slice(name_of(context).as_bytes());
            push_reply(output, option, reply::META_CONTEXT, &data);
        }
        push_reply(output, option, reply::ACK, &[]);
        if !inquiry.lists() {
            self.selected = Some(Selected { export, contexts: contexts.into() });
        }
    }
}

impl Session {
    /// "Transmission flags": what a device of this kind can do with what was negotiated, and nothing else.
    ///
    /// `CAN_MULTI_CONN` holds for every [`tap_block::BlockDevice`]: a flush covers what had completed for any client.
    fn flags(&self) -> u16 {
        use export_flag as f;
        let mut flags = f::HAS_FLAGS | f::SEND_FLUSH | f::CAN_MULTI_CONN | f::SEND_CACHE;
        flags |= match self.geometry.read_only {
            true => f::READ_ONLY,
            false => f::SEND_FUA | f::SEND_TRIM | f::SEND_WRITE_ZEROES | f::SEND_FAST_ZERO,
        };
        if self.style != Style::Simple {
            flags |= f::SEND_DF;
        }
        if self.style == Style::Extended && !self.contexts.is_empty() {
            flags |= f::BLOCK_STATUS_PAYLOAD;
        }
        flags
    }
}

impl Choice {
    const fn by_name_alone() -> Self {
        Self {
            option: option::EXPORT_NAME,
            wants_name: false,
            wants_description: false,
            wants_block_size: false,
        }
    }

    /// The data of `NBD_OPT_INFO` and `NBD_OPT_GO`: name length, name, number of requests, requests.
    fn parse(option: u32, mut data: &[u8]) -> Result<(Self, String), &'static str> {
        const SHORT: &str = "the option ends before its name and its information requests do";
        let length = data.try_get_u32().map_err(|_| SHORT)? as usize;
        let (bytes, mut rest) = data.split_at_checked(length).ok_or(SHORT)?;
        let name = name(bytes)?;
        let count = rest.try_get_u16().map_err(|_| SHORT)?;
        if rest.len() != usize::from(count) * 2 {
            return Err("the number of information requests does not fit the option's length");
        }
        let mut choice = Self { option, ..Self::by_name_alone() };
        while let Ok(request) = rest.try_get_u16() {
            match request {
                info::NAME => choice.wants_name = true,
                info::DESCRIPTION => choice.wants_description = true,
                info::BLOCK_SIZE => choice.wants_block_size = true,
                // "The server MUST ignore any information requests it does not understand."
                _ => {}
            }
        }
        Ok((choice, name))
    }

    /// `NBD_REP_INFO`: the export always, the others as asked for.
    fn push_infos(&self, export: &ExportInfo, flags: u16, output: &mut Output) {
        let mut data = BytesMut::new();
        data.put_u64(export.geometry.size);
        data.put_u16(flags);
        push_info(output, self.option, info::EXPORT, &data);
        if self.wants_name {
            push_info(output, self.option, info::NAME, shortened(&export.name).as_bytes());
        }
        if self.wants_description && !export.description.is_empty() {
            push_info(output, self.option, info::DESCRIPTION, shortened(&export.description).as_bytes());
        }
        if self.wants_block_size {
            let mut data = BytesMut::new();
            for size in [MIN_BLOCK, PREFERRED_BLOCK, OFFERED_PAYLOAD] {
                data.put_u32(size);
            }
            push_info(output, self.option, info::BLOCK_SIZE, &data);
        }
    }
}

/// The answer to `NBD_OPT_EXPORT_NAME`.
fn push_export(output: &mut Output, export: &ExportInfo, flags: u16, no_zeroes: bool) {
    output.push(&export.geometry.size.to_be_bytes());
    output.push(&flags.to_be_bytes());
    if !no_zeroes {
        output.push(&[0; 124]);
    }
}

fn push_refusal(output: &mut Output, option: u32, refusal: &Refusal) {
    let (error, text) = match refusal {
        Refusal::Unknown(text) => (reply::ERR_UNKNOWN, text),
        Refusal::Policy(text) => (reply::ERR_POLICY, text),
    };
    push_reply(output, option, error, shortened(text).as_bytes());
}

fn push_info(output: &mut Output, option: u32, kind: u16, payload: &[u8]) {
    let mut data = BytesMut::with_capacity(2 + payload.len());
    data.put_u16(kind);
    data.put_slice(payload);
    push_reply(output, option, reply::INFO, &data);
}

/// "Fixed newstyle negotiation": the format of every reply to an option.
fn push_reply(output: &mut Output, option: u32, kind: u32, data: &[u8]) {
    let Ok(length) = u32::try_from(data.len()) else { return };
    output.push(&OPTION_REPLY_MAGIC.to_be_bytes());
    for field in [option, kind, length] {
        output.push(&field.to_be_bytes());
    }
    output.push(data);
}

/// The next option's header, left in place; the magic number when it is a wrong one.
fn peek_header(mut input: &[u8]) -> Option<Result<Header, u64>> {
    let magic = input.try_get_u64().ok()?;
    if magic != OPTION_MAGIC {
        return Some(Err(magic));
    }
    let option = input.try_get_u32().ok()?;
    let length = input.try_get_u32().ok()?;
    Some(Ok(Header { option, length }))
}

/// "Conventions": UTF-8, no NUL, at most 4096 bytes.
fn name(bytes: &[u8]) -> Result<String, &'static str> {
    if bytes.len() > MAX_STRING {
        return Err("the export's name is longer than 4096 bytes");
    }
    match std::str::from_utf8(bytes) {
        Ok(name) if !name.contains('\0') => Ok(name.to_owned()),
        _ => Err("the export's name is not UTF-8 text without NUL"),
    }
}

/// Drops up to `limit` bytes of `input`; how many it dropped.
pub(crate) fn drop_front(input: &mut BytesMut, limit: u32) -> u32 {
    let n = u32::try_from(input.len()).unwrap_or(u32::MAX).min(limit);
    input.advance(n as usize);
    n
}
