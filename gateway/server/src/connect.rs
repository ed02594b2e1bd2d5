//! What to type at each kind of client to open an export: ready lines, with SECRET and MUTUAL_SECRET for what only their
//! owner knows.
//!
//! QEMU's are run by a test; the others follow the vendors' documentation (open-iscsi's README, `esxcli iscsi`,
//! the iSCSI module of PowerShell, XCP-ng's storage guide) and say that they were not tried.

use cx_api::{ClientLinesView, ConnectView, ExportView};

/// What is to be connected to.
pub(crate) struct Wanted<'a> {
    pub(crate) export: &'a ExportView,
    /// `HOST:PORT`.
    pub(crate) portal: &'a str,
}

pub(crate) fn view(wanted: &Wanted<'_>) -> ConnectView {
    let mut clients = vec![open_iscsi(wanted), esxi(wanted), windows(wanted), xcp_ng(wanted), qemu(wanted)];
    for client in &mut clients {
        client.notes.extend(wanted.acl_note());
    }
    ConnectView { export: wanted.export.name.clone(), portal: wanted.portal.to_owned(), clients }
}

impl Wanted<'_> {
    fn host(&self) -> &str {
        self.portal.rsplit_once(':').map_or(self.portal, |(host, _)| host)
    }

    fn port(&self) -> &str {
        self.portal.rsplit_once(':').map_or("3260", |(_, port)| port)
    }

    fn user(&self) -> Option<String> {
        self.export.chap_user.as_deref().map(quoted)
    }

    fn mutual(&self) -> Option<String> {
        self.export.mutual_chap_user.as_deref().map(quoted)
    }

    fn acl_note(&self) -> Option<String> {
        let acl = &self.export.acl;
        (!acl.is_empty()).then(|| format!("the initiator's name has to be {}", acl.join(" or ")))
    }
}

/// In the quotes of a POSIX shell, unless it needs none; PowerShell takes the same for what has no quote in it.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._:@/".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn lines(client: &str, tried: bool, lines: Vec<String>, notes: &[String]) -> ClientLinesView {
    ClientLinesView { client: client.to_owned(), tried, lines, notes: notes.to_vec() }
}

fn open_iscsi(wanted: &Wanted<'_>) -> ClientLinesView {
    let node = format!("iscsiadm -m node -T {} -p {}", quoted(&wanted.export.target), wanted.portal);
    let set = |name: &str, value: &str| format!("{node} -o update -n node.session.auth.{name} -v {value}");
    let mut all = vec![format!("{node} -o new")];
    if let Some(user) = wanted.user() {
        all.extend([set("authmethod", "CHAP"), set("username", &user), set("password", "SECRET")]);
    }
    if let Some(user) = wanted.mutual() {
        all.extend([set("username_in", &user), set("password_in", "MUTUAL_SECRET")]);
    }
    all.push(format!("{node} --login"));
    all.push(format!("ls -l /dev/disk/by-id/wwn-0x{}", wanted.export.naa));
    let name = "the initiator's name is in /etc/iscsi/initiatorname.iscsi".to_owned();
    lines("open-iscsi", false, all, &[name])
}

fn esxi(wanted: &Wanted<'_>) -> ClientLinesView {
    let at = format!("--adapter=ADAPTER --address={} --name={}", wanted.portal, wanted.export.target);
    let chap = |direction: &str, user: &str, secret: &str| {
        format!(
            "esxcli iscsi adapter target portal auth chap set {at} --direction={direction} --level=required \
             --authname={user} --secret={secret}"
        )
    };
    let mut all = vec![
        "esxcli iscsi software set --enabled=true".to_owned(),
        "esxcli iscsi adapter list".to_owned(),
        format!("esxcli iscsi adapter discovery statictarget add {at}"),
    ];
    all.extend(wanted.user().map(|user| chap("uni", &user, "SECRET")));
    all.extend(wanted.mutual().map(|user| chap("mutual", &user, "MUTUAL_SECRET")));
    all.push("esxcli storage core adapter rescan --adapter=ADAPTER".to_owned());
    all.push(format!("esxcli storage core device list --device=naa.{}", wanted.export.naa));
    let mut notes =
        vec!["ADAPTER is the software iSCSI adapter that the list shows, such as vmhba64".to_owned()];
    notes.extend(signature(wanted.export));
    lines("VMware ESXi", false, all, &notes)
}

/// A VMFS knows the identity of the disk that it was made on.
fn signature(export: &ExportView) -> Vec<String> {
    if export.as_original {
        return vec![
            "a VMFS that was made on the original disk mounts as it is; the original must not be seen by the same host \
             at the same time: ESXi would take the two for one"
                .to_owned(),
        ];
    }
    let snapshot = "esxcli storage vmfs snapshot";
    vec![
        "a VMFS on it shows as a snapshot, because the disk's identity is not that of the original"
            .to_owned(),
        format!("find it: {snapshot} list"),
        format!("to use it beside the original: {snapshot} resignature --volume-label=LABEL"),
        format!("to use it in place of an original that is gone: {snapshot} mount --volume-label=LABEL"),
    ]
}

fn windows(wanted: &Wanted<'_>) -> ClientLinesView {
    let (host, port) = (wanted.host().trim_matches(['[', ']']), wanted.port());
    let portal = format!("-TargetPortalAddress {host} -TargetPortalPortNumber {port}");
    let login = match (wanted.user(), wanted.mutual()) {
        (None, _) => String::new(),
        (Some(user), None) => {
            format!(" -AuthenticationType ONEWAYCHAP -ChapUsername {user} -ChapSecret SECRET")
        }
        (Some(user), Some(_)) => {
            format!(" -AuthenticationType MUTUALCHAP -ChapUsername {user} -ChapSecret SECRET")
        }
    };
    let target = quoted(&wanted.export.target);
    let mut all = vec![
        "Set-Service MSiSCSI -StartupType Automatic; Start-Service MSiSCSI".to_owned(),
        format!("New-IscsiTargetPortal {portal}"),
    ];
    all.extend(wanted.mutual().map(|_| "Set-IscsiChapSecret -ChapSecret MUTUAL_SECRET".to_owned()));
    all.push(format!("Connect-IscsiTarget -NodeAddress {target} {portal}{login} -IsPersistent $true"));
    all.push(format!("Get-Disk | Where-Object SerialNumber -eq {}", wanted.export.serial));
    let mut notes = vec!["the initiator's name: (Get-InitiatorPort).NodeAddress".to_owned()];
    if wanted.export.chap_user.is_some() {
        notes.push("Windows takes CHAP secrets of 12 to 16 characters".to_owned());
    }
    if wanted.export.as_original {
        notes.push("the original must not be seen by the same machine at the same time".to_owned());
    } else {
        notes.push(
            "a copy of a disk that is there already comes offline: Set-Disk -Number N -IsOffline $false"
                .to_owned(),
        );
    }
    lines("Windows", false, all, &notes)
}

/// An image holds a storage repository already; `sr-create` would format it.
fn xcp_ng(wanted: &Wanted<'_>) -> ClientLinesView {
    let mut config = format!(
        "device-config:target={} device-config:port={} device-config:targetIQN={} device-config:SCSIid=3{}",
        wanted.host(),
        wanted.port(),
        wanted.export.target,
        wanted.export.naa
    );
    if let Some(user) = wanted.user() {
        config += &format!(" device-config:chapuser={user} device-config:chappassword=SECRET");
    }
    let all = vec![
        format!("xe sr-probe type=lvmoiscsi {config}"),
        "xe sr-introduce uuid=UUID shared=true type=lvmoiscsi content-type=user name-label=chronogate"
            .to_owned(),
        format!("xe pbd-create sr-uuid=UUID host-uuid=HOST_UUID {config}"),
        "xe pbd-plug uuid=PBD_UUID".to_owned(),
    ];
    let mut notes = vec![
        "UUID is the storage repository's, as the probe shows it; HOST_UUID is from xe host-list; PBD_UUID is what \
         pbd-create prints"
            .to_owned(),
        "for an empty disk: xe sr-create instead, which formats it".to_owned(),
        "the initiator's name: xe host-param-get uuid=HOST_UUID param-name=iscsi_iqn".to_owned(),
        "the repository must not be attached from the original disk at the same time: the two have one UUID".to_owned(),
    ];
    if wanted.mutual().is_some() {
        notes.push("XCP-ng has no CHAP of the target: it logs in with the initiator's alone".to_owned());
    }
    lines("XCP-ng", false, all, &notes)
}

fn qemu(wanted: &Wanted<'_>) -> ClientLinesView {
    let export = wanted.export;
    let mut disk = format!(
        "driver=iscsi,transport=tcp,portal={},target={},lun={}",
        wanted.portal, export.target, export.lun
    );
    if let Some(user) = &export.chap_user {
        // A comma stands for itself when it comes twice.
        disk += &format!(",user={},password-secret=chap", user.replace(',', ",,"));
    }
    if let Some(name) = export.acl.first() {
        disk += &format!(",initiator-name={name}");
    }
    let secret = export.chap_user.as_ref().map_or("", |_| " --object secret,id=chap,file=SECRET_FILE");
    let object = secret.replace("--object", "-object");
    let (read_only, option) = if export.writable { ("off", "") } else { ("on", " -r") };
    let (disk, node) = (quoted(&disk), quoted(&format!("node-name=disk0,read-only={read_only},{disk}")));
    let all = vec![
        format!("qemu-img info{secret} --image-opts {disk}"),
        format!("qemu-io{secret} --image-opts{option} -c 'read 0 64k' {disk}"),
        format!("qemu-system-x86_64{object} -blockdev {node} -device virtio-blk-pci,drive=disk0"),
    ];
    let mut notes = Vec::new();
    if export.chap_user.is_some() {
        notes.push(
            "SECRET_FILE is a file with the CHAP secret and nothing else, not even an end of line".to_owned(),
        );
    }
    if wanted.mutual().is_some() {
        notes.push("QEMU has no CHAP of the target: it logs in with the initiator's alone".to_owned());
    }
    lines("QEMU", true, all, &notes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export() -> ExportView {
        serde_json::from_str(include_str!("../../../cx/api/tests/golden/export.json")).unwrap()
    }

    fn text(view: &ConnectView) -> String {
        let of = |client: &ClientLinesView| [client.lines.clone(), client.notes.clone()].concat().join("\n");
        view.clients.iter().map(of).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn lines_name_the_portal_the_target_and_who_logs_in() {
        let export = export();
        let view = view(&Wanted { export: &export, portal: "10.0.0.5:3260" });
        assert_eq!(view.clients.len(), 5);
        for client in &view.clients {
            let all = client.lines.join("\n");
            assert!(all.contains("10.0.0.5") && all.contains("3260"), "{all}");
            assert!(all.contains(&export.target) && all.contains("esx"), "{all}");
            let notes = client.notes.join("\n");
            assert!(notes.contains("has to be iqn.1998-01.com.vmware:esx1 or iqn"), "{notes}");
        }
        let all = text(&view);
        for part in [
            "password_in -v MUTUAL_SECRET",
            "--direction=mutual",
            "MUTUALCHAP",
            "chappassword=SECRET",
            "lun=7",
        ] {
            assert!(all.contains(part), "{part} in {all}");
        }
        assert!(all.contains("resignature --volume-label=LABEL"), "{all}");
        let tried: Vec<_> =
            view.clients.iter().filter(|client| client.tried).map(|c| c.client.as_str()).collect();
        assert_eq!(tried, ["QEMU"]);
    }

    #[test]
    fn without_rules_nobody_is_told_to_show_any_and_the_original_needs_no_new_signature() {
        let plain = ExportView {
            acl: Vec::new(),
            chap_user: None,
            mutual_chap_user: None,
            as_original: true,
            ..export()
        };
        let all = text(&view(&Wanted { export: &plain, portal: "[::1]:3260" }));
        for part in ["SECRET", "CHAP", "chap", "has to be", "resignature"] {
            assert!(!all.contains(part), "{part} in {all}");
        }
        assert!(all.contains("mounts as it is") && all.contains("-TargetPortalAddress ::1 "), "{all}");
    }

    #[test]
    fn what_a_shell_would_read_is_quoted() {
        assert_eq!(quoted("esx-1.a:b"), "esx-1.a:b");
        assert_eq!(quoted("it's $(x)"), r"'it'\''s $(x)'");
    }
}
