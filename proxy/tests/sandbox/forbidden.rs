//! What an intruder would try.

use std::{
    fs::{self, File, Permissions},
    net::{TcpListener, UdpSocket},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
        process::parent_id,
    },
    path::Path,
    process::Command,
};

use doorbell_proxy::sandbox::Landlock;
use libc::c_long;
use rustix::fs::{OFlags, fcntl_setfl};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{Report, proxy::abstract_address, raw};

pub(crate) fn try_all(report: &mut Report, folder: &Path, landlock: Landlock) {
    read(report, folder, landlock);
    write(report, folder);
    programs(report);
    sockets(report, folder, landlock);
    memory(report);
    for (what, number, arguments) in calls() {
        let arguments: [c_long; 6] = std::array::from_fn(|n| *arguments.get(n).unwrap_or(&0));
        report.fails(what, raw::call(number, arguments));
    }
}

fn read(report: &mut Report, folder: &Path, landlock: Landlock) {
    let parent = parent_id();
    let paths = [
        "/etc/passwd".to_owned(),
        "/etc/shadow".to_owned(),
        folder.join("secret").display().to_string(),
        format!("/proc/{parent}/environ"),
        format!("/proc/{parent}/mem"),
        "/proc/self/maps".to_owned(),
    ];
    for path in paths {
        let what = format!("reading {path}");
        match landlock {
            Landlock::Abi(_) => report.fails(&what, File::open(path)),
            Landlock::SwitchedOff | Landlock::Missing => report.left_out(&what, &landlock),
        }
    }
    if let Landlock::Abi(_) = landlock {
        report.fails("listing /", fs::read_dir("/"));
    }
}

fn write(report: &mut Report, folder: &Path) {
    let page = folder.join("granted/page");
    report.fails("making a file", File::create(folder.join("new")));
    report.fails(
        "making a file among temporary ones",
        File::create(std::env::temp_dir().join("doorbell-sandbox")),
    );
    report.fails("making a folder", fs::create_dir(folder.join("folder")));
    report.fails("writing to what may be read", File::options().append(true).open(&page));
    report.fails("emptying it", File::options().write(true).truncate(true).open(&page));
    report.fails("removing it", fs::remove_file(&page));
    report.fails("renaming it", fs::rename(&page, folder.join("granted/other")));
    report.fails("linking it", fs::hard_link(&page, folder.join("granted/other")));
    report.fails("opening it to all", fs::set_permissions(&page, Permissions::from_mode(0o777)));
    report.fails("making a socket's file", UnixListener::bind(folder.join("new.sock")));
}

fn programs(report: &mut Report) {
    report.fails("executing a program", Command::new("/bin/true").spawn());
    report.fails("forking", raw::fork());
    #[cfg(target_arch = "x86_64")]
    report.fails("forking in the old way", raw::call(libc::SYS_fork, [0; 6]));
}

fn sockets(report: &mut Report, folder: &Path, landlock: Landlock) {
    report.fails("listening", TcpListener::bind("127.0.0.1:0"));
    let tcp = |protocol| Socket::new(Domain::IPV4, Type::STREAM, protocol);
    report.fails("a protocol that nobody speaks", tcp(Some(Protocol::SCTP)));
    report.fails("a socket's reach", tcp(None).and_then(|socket| socket.set_ttl_v4(1)));
    report.fails("a filter on a socket", tcp(None).and_then(|socket| socket.attach_filter(&[])));
    let blocks = File::open("/dev/null").map(|file| fcntl_setfl(file, OFlags::NONBLOCK));
    report.fails("changing how a file is open", blocks.and_then(|changed| Ok(changed?)));
    let stranger = abstract_address(folder);
    match landlock {
        Landlock::Abi(6..) => {
            let met = stranger.and_then(|address| UnixStream::connect_addr(&address));
            report.fails("a Unix socket without a file", met);
        }
        Landlock::Abi(_) | Landlock::SwitchedOff | Landlock::Missing => {
            report.left_out("a Unix socket without a file", &landlock);
        }
    }
    let socket = || Socket::new(Domain::IPV4, Type::STREAM, None);
    report.fails("listening without an address", socket().and_then(|socket| socket.listen(1)));
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let bound = socket().and_then(|socket| socket.bind(&address.into()));
    match landlock {
        Landlock::Abi(4..) => report.fails("binding a TCP port", bound),
        _ => report.left_out("binding a TCP port", &landlock),
    }
    report.fails("a listening socket in no folder", {
        let address = abstract_address(&folder.join("new"));
        address.and_then(|address| UnixListener::bind_addr(&address))
    });
    for (what, family, kind, protocol) in [
        ("a packet socket", libc::AF_PACKET, libc::SOCK_RAW, 0),
        ("a raw socket", libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP),
        ("a crypto socket", libc::AF_ALG, libc::SOCK_SEQPACKET, 0),
        ("a socket to the host", libc::AF_VSOCK, libc::SOCK_STREAM, 0),
        ("a firewall socket", libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER),
        ("an audit socket", libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_AUDIT),
    ] {
        let kind = Type::from(kind);
        report.fails(what, Socket::new(family.into(), kind, Some(protocol.into())));
    }
    // What is left of binding, so that a change is seen.
    report.works("a UDP socket", UdpSocket::bind("127.0.0.1:0"));
}

fn memory(report: &mut Report) {
    let (plain, code) = (libc::PROT_READ | libc::PROT_WRITE, libc::PROT_READ | libc::PROT_EXEC);
    report.fails("memory to write and execute", raw::map(plain | code, plain | code));
    report.fails("memory to execute", raw::map(code, code));
    report.fails("executing what was written", raw::map(plain, code));
}

/// Name, number and arguments of calls; arguments that are left out are 0.
fn calls() -> Vec<(&'static str, c_long, Vec<c_long>)> {
    let [parent, own] = [parent_id(), std::process::id()].map(c_long::from);
    let new_user = c_long::from(libc::CLONE_NEWUSER);
    let here = c_long::from(libc::AT_FDCWD);
    let thread_in_namespace = c_long::from(libc::CLONE_THREAD | libc::CLONE_NEWNET);
    vec![
        ("execve", libc::SYS_execve, vec![]),
        ("execveat", libc::SYS_execveat, vec![here]),
        ("clone of a process", libc::SYS_clone, vec![libc::SIGCHLD.into()]),
        ("clone into a namespace", libc::SYS_clone, vec![thread_in_namespace]),
        ("clone3", libc::SYS_clone3, vec![]),
        ("unshare", libc::SYS_unshare, vec![new_user]),
        ("setns", libc::SYS_setns, vec![0]),
        ("ptrace of ourselves", libc::SYS_ptrace, vec![libc::PTRACE_TRACEME.into()]),
        ("ptrace of the parent", libc::SYS_ptrace, vec![libc::PTRACE_SEIZE.into(), parent]),
        ("process_vm_readv", libc::SYS_process_vm_readv, vec![parent]),
        ("process_vm_writev", libc::SYS_process_vm_writev, vec![parent]),
        ("pidfd_open", libc::SYS_pidfd_open, vec![parent]),
        ("pidfd_getfd", libc::SYS_pidfd_getfd, vec![0, 0]),
        ("pidfd_send_signal", libc::SYS_pidfd_send_signal, vec![0]),
        ("kill of the parent", libc::SYS_kill, vec![parent, 0]),
        ("kill of all", libc::SYS_kill, vec![-1, 0]),
        ("tgkill of the parent", libc::SYS_tgkill, vec![parent, parent, 0]),
        ("tkill of the parent", libc::SYS_tkill, vec![parent, 0]),
        ("rt_sigqueueinfo", libc::SYS_rt_sigqueueinfo, vec![parent]),
        ("prlimit64 of the parent", libc::SYS_prlimit64, vec![parent]),
        ("setuid", libc::SYS_setuid, vec![0]),
        ("setgid", libc::SYS_setgid, vec![0]),
        ("setresuid", libc::SYS_setresuid, vec![0, 0, 0]),
        ("setgroups", libc::SYS_setgroups, vec![]),
        ("setsid", libc::SYS_setsid, vec![]),
        ("capset", libc::SYS_capset, vec![]),
        ("being looked into", libc::SYS_prctl, vec![libc::PR_SET_DUMPABLE.into(), 1]),
        ("another seccomp filter", libc::SYS_seccomp, vec![1]),
        ("landlock", libc::SYS_landlock_create_ruleset, vec![0, 0, 1]),
        ("mount", libc::SYS_mount, vec![]),
        ("umount", libc::SYS_umount2, vec![]),
        ("chroot", libc::SYS_chroot, vec![]),
        ("pivot_root", libc::SYS_pivot_root, vec![]),
        ("open_tree", libc::SYS_open_tree, vec![here]),
        ("openat2", libc::SYS_openat2, vec![here]),
        ("open_by_handle_at", libc::SYS_open_by_handle_at, vec![here]),
        ("name_to_handle_at", libc::SYS_name_to_handle_at, vec![here]),
        ("memfd_create", libc::SYS_memfd_create, vec![]),
        ("bpf", libc::SYS_bpf, vec![]),
        ("io_uring", libc::SYS_io_uring_setup, vec![1]),
        ("userfaultfd", libc::SYS_userfaultfd, vec![1]),
        ("perf_event_open", libc::SYS_perf_event_open, vec![]),
        ("keyctl", libc::SYS_keyctl, vec![]),
        ("add_key", libc::SYS_add_key, vec![]),
        ("shared memory", libc::SYS_shmget, vec![0, 4096, 0o1600]),
        ("a message queue", libc::SYS_msgget, vec![0, 0o1600]),
        ("personality", libc::SYS_personality, vec![0xffff_ffff]),
        ("init_module", libc::SYS_init_module, vec![]),
        ("typing for others", libc::SYS_ioctl, vec![0, 0x5412]),
        ("being signalled for", libc::SYS_fcntl, vec![0, libc::F_SETOWN.into(), own]),
        ("a call that is not made yet", 1_000, vec![]),
    ]
}
