//! Persistent reservations (SPC-4 section 5.9): registrations, the reservation, and what each service action
//! of PERSISTENT RESERVE OUT does to them. A value without I/O; who keeps it over a restart is the driver's
//! concern ([`Reservations::encode`]).

use crate::field::{be16, be32, be64, byte, len16, len32};
use crate::scsi::sense::{Reply, Sense};

/// Registrations of one unit.
const MAX_REGISTRANTS: usize = 256;
/// Of the durable form.
const MAGIC: &[u8; 4] = b"CGPR";
const VERSION: u8 = 1;

/// One end of a nexus: the initiator's port (its name and the ISID of its session).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct InitiatorPort {
    /// The iSCSI name.
    pub name: String,
    /// The session's ISID.
    pub isid: [u8; 6],
}

/// The type of a reservation (section 5.9.8.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    WriteExclusive = 1,
    ExclusiveAccess = 3,
    WriteExclusiveRegistrants = 5,
    ExclusiveAccessRegistrants = 6,
    WriteExclusiveAll = 7,
    ExclusiveAccessAll = 8,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Registrant {
    port: InitiatorPort,
    key: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    kind: Kind,
    /// Of the all-registrants kinds every registrant is a holder; this one made it.
    by: InitiatorPort,
}

/// All of a unit's registrations and its reservation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reservations {
    generation: u32,
    registrants: Vec<Registrant>,
    held: Option<Held>,
    /// Activate persist through power loss.
    kept: bool,
}

/// What else a service action does.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Effects {
    /// Unit attentions for the sessions of these ports.
    pub(crate) attentions: Vec<(InitiatorPort, Sense)>,
    /// Ports whose tasks are aborted.
    pub(crate) aborted: Vec<InitiatorPort>,
    /// The durable form has changed.
    pub(crate) changed: bool,
}

/// PERSISTENT RESERVE OUT, taken apart.
#[derive(Debug)]
pub(crate) struct Out<'a> {
    /// The service action.
    pub(crate) action: u8,
    /// Scope and type.
    pub(crate) scope_type: u8,
    /// The parameter list.
    pub(crate) list: &'a [u8],
}

/// What a command wants of the unit, as far as reservations go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wants {
    /// To read the medium.
    Read,
    /// To change it.
    Write,
    /// To see or change what is behind it; for registrants.
    Manage,
}

impl Kind {
    fn decode(scope_type: u8) -> Option<Self> {
        // The only scope is the logical unit.
        Some(match scope_type {
            1 => Self::WriteExclusive,
            3 => Self::ExclusiveAccess,
            5 => Self::WriteExclusiveRegistrants,
            6 => Self::ExclusiveAccessRegistrants,
            7 => Self::WriteExclusiveAll,
            8 => Self::ExclusiveAccessAll,
            _ => return None,
        })
    }

    fn code(self) -> u8 {
        match self {
            Self::WriteExclusive => 1,
            Self::ExclusiveAccess => 3,
            Self::WriteExclusiveRegistrants => 5,
            Self::ExclusiveAccessRegistrants => 6,
            Self::WriteExclusiveAll => 7,
            Self::ExclusiveAccessAll => 8,
        }
    }

    fn is_all(self) -> bool {
        matches!(self, Self::WriteExclusiveAll | Self::ExclusiveAccessAll)
    }

    fn is_for_registrants(self) -> bool {
        !matches!(self, Self::WriteExclusive | Self::ExclusiveAccess)
    }

    fn lets_read(self) -> bool {
        matches!(self, Self::WriteExclusive | Self::WriteExclusiveRegistrants | Self::WriteExclusiveAll)
    }
}

impl Reservations {
    /// Section 5.9.1 tables 60 and 61: may `port` do this?
    pub(crate) fn admits(&self, port: &InitiatorPort, wants: Wants) -> bool {
        let Some(held) = &self.held else { return true };
        if self.is_holder(port) {
            return true;
        }
        let registered = self.key_of(port).is_some();
        match wants {
            Wants::Manage => registered,
            _ if held.kind.is_for_registrants() && registered => true,
            Wants::Read => held.kind.lets_read(),
            Wants::Write => false,
        }
    }

    /// Are there any registrations? RESERVE(6) and these exclude one another.
    pub(crate) fn in_use(&self) -> bool {
        !self.registrants.is_empty()
    }

    pub(crate) fn is_registered(&self, port: &InitiatorPort) -> bool {
        self.key_of(port).is_some()
    }

    fn key_of(&self, port: &InitiatorPort) -> Option<u64> {
        self.registrants.iter().find(|r| r.port == *port).map(|r| r.key)
    }

    fn is_holder(&self, port: &InitiatorPort) -> bool {
        match &self.held {
            None => false,
            Some(held) if held.kind.is_all() => self.key_of(port).is_some(),
            Some(held) => held.by == *port,
        }
    }

    /// PERSISTENT RESERVE OUT from `port`; `Err` is its answer when nothing has changed.
    pub(crate) fn apply(&mut self, port: &InitiatorPort, out: &Out<'_>) -> Result<Effects, Reply> {
        let was_kept = self.kept;
        let mut effects = match out.action {
            0 | 6 => self.register(port, out, out.action == 6),
            7 => self.register_and_move(port, out),
            1..=5 => {
                self.check_list(out.list)?;
                if self.key_of(port) != Some(be64(out.list, 0)) {
                    return Err(Reply::conflict());
                }
                match out.action {
                    1 => self.reserve(port, out),
                    2 => self.release(port, out),
                    3 => Ok(self.clear(port)),
                    _ => self.preempt(port, out),
                }
            }
            _ => Err(Sense::invalid_field(1).into()),
        }?;
        effects.changed = was_kept || self.kept;
        Ok(effects)
    }

    /// Section 6.16.3: the list of all actions but REGISTER AND MOVE.
    fn check_list(&self, list: &[u8]) -> Result<(), Reply> {
        if list.len() < 24 {
            return Err(Sense::PARAMETER_LENGTH.into());
        }
        // SPEC_I_PT is for registering only.
        if byte(list, 20) & 0x08 != 0 { Err(Sense::invalid_parameter(20).into()) } else { Ok(()) }
    }

    /// Section 5.9.7: REGISTER, REGISTER AND IGNORE EXISTING KEY.
    fn register(&mut self, port: &InitiatorPort, out: &Out<'_>, ignore: bool) -> Result<Effects, Reply> {
        if out.list.len() < 24 {
            return Err(Sense::PARAMETER_LENGTH.into());
        }
        let (key, new, flags) = (be64(out.list, 0), be64(out.list, 8), byte(out.list, 20));
        if !ignore && self.key_of(port).unwrap_or(0) != key {
            return Err(Reply::conflict());
        }
        let others = if flags & 0x08 == 0 { Vec::new() } else { self.named_ports(port, out, ignore)? };
        if self.registrants.len() + 1 + others.len() > MAX_REGISTRANTS && new != 0 {
            return Err(Sense::NO_REGISTRATION_RESOURCES.into());
        }
        self.kept = flags & 0x01 != 0;
        self.generation = self.generation.wrapping_add(1);
        if new == 0 {
            return Ok(self.unregister(port));
        }
        for port in others.into_iter().chain([port.clone()]) {
            self.set_key(port, new);
        }
        Ok(Effects::default())
    }

    /// SPEC_I_PT: the list names further ports to register, none of which may be registered already.
    fn named_ports(
        &self,
        port: &InitiatorPort,
        out: &Out<'_>,
        ignore: bool,
    ) -> Result<Vec<InitiatorPort>, Reply> {
        if ignore || self.is_registered(port) {
            return Err(Sense::invalid_parameter(20).into());
        }
        let mut ids = out.list.get(28..).unwrap_or_default();
        if usize::try_from(be32(out.list, 24)) != Ok(ids.len()) {
            return Err(Sense::PARAMETER_LENGTH.into());
        }
        let mut ports = Vec::new();
        while !ids.is_empty() {
            let (port, length) = decode_transport_id(ids).ok_or(Sense::invalid_parameter(28))?;
            if self.is_registered(&port) {
                return Err(Reply::conflict());
            }
            ports.push(port);
            ids = ids.get(length..).unwrap_or_default();
        }
        Ok(ports)
    }

    fn set_key(&mut self, port: InitiatorPort, key: u64) {
        match self.registrants.iter_mut().find(|r| r.port == port) {
            Some(registrant) => registrant.key = key,
            None => self.registrants.push(Registrant { port, key }),
        }
    }

    /// Section 5.9.11.2.
    fn unregister(&mut self, port: &InitiatorPort) -> Effects {
        let was_holder = self.is_holder(port);
        self.registrants.retain(|r| r.port != *port);
        let mut effects = Effects::default();
        let Some(held) = &self.held else { return effects };
        let ends = if held.kind.is_all() { self.registrants.is_empty() } else { was_holder };
        if ends {
            if held.kind.is_for_registrants() {
                effects.attentions = self.told(port, Sense::RESERVATIONS_RELEASED);
            }
            self.held = None;
        }
        effects
    }

    /// What every registrant but `port` is told.
    fn told(&self, port: &InitiatorPort, sense: Sense) -> Vec<(InitiatorPort, Sense)> {
        let others = self.registrants.iter().filter(|r| r.port != *port);
        others.map(|r| (r.port.clone(), sense)).collect()
    }

    /// Section 5.9.8.
    fn reserve(&mut self, port: &InitiatorPort, out: &Out<'_>) -> Result<Effects, Reply> {
        let kind = Kind::decode(out.scope_type).ok_or(Sense::invalid_field(2))?;
        match &self.held {
            None => {
                self.held = Some(Held { kind, by: port.clone() });
                Ok(Effects::default())
            }
            Some(held) if held.kind == kind && self.is_holder(port) => Ok(Effects::default()),
            Some(_) => Err(Reply::conflict()),
        }
    }

    /// Section 5.9.11.3.
    fn release(&mut self, port: &InitiatorPort, out: &Out<'_>) -> Result<Effects, Reply> {
        let Some(held) = self.held.as_ref().filter(|_| self.is_holder(port)) else {
            return Ok(Effects::default());
        };
        if held.kind.code() != out.scope_type {
            return Err(Sense::INVALID_RELEASE.into());
        }
        let mut effects = Effects::default();
        if held.kind.is_for_registrants() {
            effects.attentions = self.told(port, Sense::RESERVATIONS_RELEASED);
        }
        self.held = None;
        Ok(effects)
    }

    /// Section 5.9.11.6.
    fn clear(&mut self, port: &InitiatorPort) -> Effects {
        let attentions = self.told(port, Sense::RESERVATIONS_PREEMPTED);
        self.registrants.clear();
        self.held = None;
        self.generation = self.generation.wrapping_add(1);
        Effects { attentions, ..Effects::default() }
    }

    /// Sections 5.9.11.4 and 5.9.11.5: PREEMPT, PREEMPT AND ABORT.
    fn preempt(&mut self, port: &InitiatorPort, out: &Out<'_>) -> Result<Effects, Reply> {
        let victim = be64(out.list, 8);
        let takes_over = match &self.held {
            Some(held) if held.kind.is_all() => victim == 0,
            Some(_) if victim == 0 => return Err(Sense::invalid_parameter(8).into()),
            Some(held) => self.key_of(&held.by) == Some(victim),
            None => false,
        };
        let kind = Kind::decode(out.scope_type);
        if takes_over && kind.is_none() {
            return Err(Sense::invalid_field(2).into());
        }
        let goes = |r: &Registrant| if victim == 0 { r.port != *port } else { r.key == victim };
        if !takes_over && (victim == 0 || !self.registrants.iter().any(goes)) {
            return Err(Reply::conflict());
        }
        let gone: Vec<_> = self.registrants.iter().filter(|r| goes(r)).map(|r| r.port.clone()).collect();
        self.registrants.retain(|r| !goes(r) || (takes_over && r.port == *port));
        self.generation = self.generation.wrapping_add(1);
        let mut effects = Effects::default();
        if let (true, Some(kind)) = (takes_over, kind) {
            let before = self.held.replace(Held { kind, by: port.clone() });
            if before.is_some_and(|before| before.kind != kind) {
                effects.attentions = self.told(port, Sense::RESERVATIONS_RELEASED);
            }
        } else if self.registrants.is_empty() {
            self.held = None;
        }
        let others = gone.into_iter().filter(|gone| gone != port);
        for other in others {
            effects.attentions.push((other.clone(), Sense::REGISTRATIONS_PREEMPTED));
            if out.action == 5 {
                effects.aborted.push(other);
            }
        }
        Ok(effects)
    }

    /// Section 5.9.9.
    fn register_and_move(&mut self, port: &InitiatorPort, out: &Out<'_>) -> Result<Effects, Reply> {
        if out.list.len() < 24 {
            return Err(Sense::PARAMETER_LENGTH.into());
        }
        let (key, new) = (be64(out.list, 0), be64(out.list, 8));
        if self.key_of(port) != Some(key) {
            return Err(Reply::conflict());
        }
        let Some(held) = self.held.clone() else { return Err(Reply::conflict()) };
        if held.kind.is_all() || held.by != *port {
            return Err(Reply::conflict());
        }
        if Kind::decode(out.scope_type) != Some(held.kind) {
            return Err(Sense::invalid_field(2).into());
        }
        let ids = out.list.get(24..).unwrap_or_default();
        let (to, _) = decode_transport_id(ids).ok_or(Sense::invalid_parameter(24))?;
        if new == 0 || to == *port {
            return Err(Sense::invalid_parameter(8).into());
        }
        self.generation = self.generation.wrapping_add(1);
        self.kept = byte(out.list, 17) & 0x01 != 0;
        self.set_key(to.clone(), new);
        self.held = Some(Held { kind: held.kind, by: to });
        if byte(out.list, 17) & 0x02 != 0 {
            self.registrants.retain(|r| r.port != *port);
        }
        Ok(Effects::default())
    }

    /// PERSISTENT RESERVE IN (section 6.15); `None` for an unknown service action.
    pub(crate) fn report(&self, action: u8) -> Option<Vec<u8>> {
        match action {
            0 => Some(self.read_keys()),
            1 => Some(self.read_reservation()),
            2 => Some(self.capabilities()),
            3 => Some(self.full_status()),
            _ => None,
        }
    }

    fn read_keys(&self) -> Vec<u8> {
        let body: Vec<u8> = self.registrants.iter().flat_map(|r| r.key.to_be_bytes()).collect();
        self.counted(&body)
    }

    fn read_reservation(&self) -> Vec<u8> {
        let Some(held) = &self.held else { return self.counted(&[]) };
        let key = if held.kind.is_all() { 0 } else { self.key_of(&held.by).unwrap_or(0) };
        let mut body = key.to_be_bytes().to_vec();
        body.extend_from_slice(&[0, 0, 0, 0, 0, held.kind.code(), 0, 0]);
        self.counted(&body)
    }

    /// The generation and the length of what follows.
    fn counted(&self, body: &[u8]) -> Vec<u8> {
        [&self.generation.to_be_bytes()[..], &len32(body.len()).to_be_bytes(), body].concat()
    }

    fn capabilities(&self) -> Vec<u8> {
        // SIP_C, ATP_C, PTPL_C; TMV; PTPL_A; the six types.
        vec![0, 8, 0x0d, 0x80 | u8::from(self.kept), 0xea, 0x01, 0, 0]
    }

    fn full_status(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for registrant in &self.registrants {
            let holds = self.is_holder(&registrant.port);
            let kind = self.held.as_ref().filter(|_| holds).map_or(0, |held| held.kind.code());
            let id = encode_transport_id(&registrant.port);
            body.extend_from_slice(&registrant.key.to_be_bytes());
            body.extend_from_slice(&[0, 0, 0, 0, u8::from(holds), kind, 0, 0, 0, 0, 0, 1]);
            body.extend_from_slice(&len32(id.len()).to_be_bytes());
            body.extend_from_slice(&id);
        }
        self.counted(&body)
    }

    /// What is to survive a restart; nothing when that is not asked for.
    pub(crate) fn encode(&self) -> Vec<u8> {
        if !self.kept {
            return Vec::new();
        }
        let mut bytes = [&MAGIC[..], &[VERSION]].concat();
        bytes.extend_from_slice(&len16(self.registrants.len()).to_be_bytes());
        for registrant in &self.registrants {
            bytes.extend_from_slice(&registrant.key.to_be_bytes());
            encode_port(&registrant.port, &mut bytes);
        }
        if let Some(held) = &self.held {
            bytes.push(held.kind.code());
            encode_port(&held.by, &mut bytes);
        }
        bytes
    }

    /// Back from [`encode`](Self::encode); `None` for anything else.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self::default());
        }
        let rest = bytes.strip_prefix(MAGIC)?.strip_prefix(&[VERSION])?;
        let count = usize::from(be16(rest.get(..2)?, 0));
        let mut rest = rest.get(2..)?;
        let mut all = Self { kept: true, ..Self::default() };
        for _ in 0..count.min(MAX_REGISTRANTS + 1) {
            let key = be64(rest.get(..8)?, 0);
            let port = decode_port(rest.get(8..)?)?;
            rest = rest.get(8 + 8 + port.name.len()..)?;
            all.registrants.push(Registrant { port, key });
        }
        if count > MAX_REGISTRANTS {
            return None;
        }
        if let Some((&kind, port)) = rest.split_first() {
            let by = decode_port(port)?;
            if port.len() != 8 + by.name.len() {
                return None;
            }
            all.held = Some(Held { kind: Kind::decode(kind)?, by });
        }
        Some(all)
    }
}

fn encode_port(port: &InitiatorPort, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(&port.isid);
    bytes.extend_from_slice(&len16(port.name.len()).to_be_bytes());
    bytes.extend_from_slice(port.name.as_bytes());
}

fn decode_port(bytes: &[u8]) -> Option<InitiatorPort> {
    let isid = *bytes.first_chunk::<6>()?;
    let length = usize::from(be16(bytes.get(6..8)?, 0));
    let name = std::str::from_utf8(bytes.get(8..8 + length)?).ok()?.to_owned();
    Some(InitiatorPort { name, isid })
}

/// SPC-4 section 7.6.4.6: an iSCSI TransportID with the session's ISID.
fn encode_transport_id(port: &InitiatorPort) -> Vec<u8> {
    let mut name = format!("{},i,0x", port.name).into_bytes();
    name.extend(port.isid.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()));
    name.push(0);
    name.resize(name.len().next_multiple_of(4), 0);
    let mut id = vec![0x45, 0];
    id.extend_from_slice(&len16(name.len()).to_be_bytes());
    id.extend_from_slice(&name);
    id
}

/// The port that a TransportID names, and the bytes it takes. Without an ISID it is that of no session.
fn decode_transport_id(bytes: &[u8]) -> Option<(InitiatorPort, usize)> {
    let length = usize::from(be16(bytes.get(2..4)?, 0));
    let name = bytes.get(4..4 + length)?;
    let text = name.split(|&b| b == 0).next()?;
    let text = std::str::from_utf8(text).ok()?;
    let (name, isid) = match bytes.first()? {
        0x05 => (text, [0; 6]),
        0x45 => {
            let (name, digits) = text.split_once(",i,0x")?;
            let number = u64::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 12)?;
            let [0, 0, isid @ ..] = number.to_be_bytes() else { return None };
            (name, isid)
        }
        _ => return None,
    };
    (!name.is_empty()).then(|| (InitiatorPort { name: name.to_owned(), isid }, 4 + length))
}
