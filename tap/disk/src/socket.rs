//! Unix sockets that only their owner may connect to, from the moment that they are there.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{Mode, fchmod};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

/// Clients that may wait to be let in.
const WAITING: i32 = 16;

/// Listens at `path`, which must not be there. Linux gives the file the mode that the socket has when it is bound: one that is
/// bound first and closed to others then is open to them for a moment.
///
/// # Errors
/// What the operating system says.
pub fn private_socket(path: &Path) -> io::Result<UnixListener> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, WAITING)?;
    Ok(UnixListener::from(socket))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn nobody_else_may_connect_to_it_at_any_moment() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("socket");
        let (over, me) = (AtomicBool::new(false), fs::metadata(tmp.path()).unwrap().uid());
        std::thread::scope(|scope| {
            let watch = scope.spawn(|| {
                let mut seen = 0;
                while !over.load(Ordering::Acquire) {
                    if let Ok(there) = fs::symlink_metadata(&path) {
                        assert_eq!((there.permissions().mode() & 0o777, there.uid()), (0o600, me));
                        seen += 1;
                    }
                }
                seen
            });
            for _ in 0..2000 {
                let listener = private_socket(&path).unwrap();
                UnixStream::connect(&path).unwrap();
                listener.accept().unwrap();
                fs::remove_file(&path).unwrap();
            }
            over.store(true, Ordering::Release);
            assert!(watch.join().unwrap() > 0);
        });
        fs::write(&path, "something").unwrap();
        assert_eq!(private_socket(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
