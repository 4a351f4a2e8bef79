"""What hostile code tries: one function, `attempt`, that runs one of many by name.

An attempt that gets what it must not have returns it; one that is refused raises, or dies.
They go past the SDK's own refusals, as hostile code would: straight to the C library, to
raw system calls, and to machine code. ``targets`` is what the host has laid out to be found.
Where an attempt that works would do harm to the machine of whoever tests, it asks for
something that the kernel allows or finds malformed only once it has let the call through:
a signal number 0, a time that is none.
"""

# The attempts are as plain as hostile code is, and all take the same argument.
# ruff: noqa: PTH109, PTH115, PTH116, PTH208, ARG005

import ctypes
import errno
import importlib.util
import mmap
import os
import pathlib
import resource
import signal
import socket
import struct
from collections.abc import Callable
from typing import Any

from flux_guest import Context, function

Targets = dict[str, Any]
ATTEMPTS: dict[str, Callable[[Targets], object]] = {}
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
MIB = 2**20
HERE = str(pathlib.Path(__file__).parent)


def attempt_to(run: Callable[[Targets], object]) -> Callable[[Targets], object]:
    ATTEMPTS[run.__name__] = run
    return run


def checked(result: int) -> int:
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def call(number: int, *arguments: Any) -> int:
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    return checked(libc.syscall(ctypes.c_long(number), *words))


def run_code(code: bytes) -> int:
    """Run machine code that returns in rax."""
    address = libc.mmap(None, 4096, 7, 0x22, -1, 0)
    ctypes.memmove(address, code, len(code))
    return int(ctypes.CFUNCTYPE(ctypes.c_long)(address)())


def refused_if(condition: bool, why: str) -> None:
    if condition:
        raise PermissionError(why)


# Files: reading


def read(path: str) -> bytes:
    descriptor = checked(libc.open(path.encode(), os.O_RDONLY))
    data = os.read(descriptor, 100)
    refused_if(not data, "empty")
    return data


READ_PATHS = {
    "read_passwd": "/etc/passwd",
    "read_shadow": "/etc/shadow",
    "read_hosts": "/etc/hosts",
    "read_machine_id": "/etc/machine-id",
    "read_environment_of_self": "/proc/self/environ",
    "read_maps_of_self": "/proc/self/maps",
    "read_environment_of_first_process": "/proc/1/environ",
    "read_file_through_root_of_first_process": "/proc/1/root" + "/etc/passwd",
    "read_file_through_root_of_self": "/proc/self/root" + "/etc/passwd",
    "read_file_through_working_folder_of_parent": "/proc/1/cwd/flux.toml",
    "read_kernel_symbols": "/proc/kallsyms",
    "read_kernel_memory": "/proc/kcore",
    "read_mounts": "/proc/self/mountinfo",
    "read_network_table": "/proc/net/tcp",
    "read_kernel_version": "/proc/version",
    "read_kernel_command_line": "/proc/cmdline",
    "read_sysctl": "/proc/sys/kernel/random/boot_id",
    "read_device_memory": "/dev/mem",
    "read_disk": "/dev/vda",
    "read_kernel_log": "/dev/kmsg",
    "read_terminal": "/dev/tty",
    "read_sys": "/sys/kernel/mm/transparent_hugepage/enabled",
    "read_program": "/bin/sh",
    "read_own_program": "/proc/self/exe",
    "read_flux_device": "/dev/flux",
}
for _name, _path in READ_PATHS.items():
    ATTEMPTS[_name] = lambda targets, path=_path: read(path)


@attempt_to
def read_secrets_of_the_project(targets: Targets) -> object:
    return read(targets["env_local"])


@attempt_to
def read_journal(targets: Targets) -> object:
    return read(targets["journal"])


@attempt_to
def read_artifact_of_another_tenant(targets: Targets) -> object:
    return read(targets["other_artifact"])


@attempt_to
def read_by_climbing(targets: Targets) -> object:
    return read(HERE + "/../" * 20 + targets["env_local"])


@attempt_to
def read_environment_of_supervisor(targets: Targets) -> object:
    return read(f"/proc/{targets['supervisor']}/environ")


@attempt_to
def read_descriptors_of_supervisor(targets: Targets) -> object:
    return os.listdir(f"/proc/{targets['supervisor']}/fd")


@attempt_to
def read_memory_of_supervisor(targets: Targets) -> object:
    return read(f"/proc/{targets['supervisor']}/mem")


@attempt_to
def list_root(targets: Targets) -> object:
    return os.listdir("/")


@attempt_to
def list_folder_of_artifacts(targets: Targets) -> object:
    return os.listdir(targets["artifacts"])


@attempt_to
def list_own_parent(targets: Targets) -> object:
    return os.listdir(HERE + "/../..")


@attempt_to
def list_processes(targets: Targets) -> object:
    return os.listdir("/proc")


@attempt_to
def list_devices(targets: Targets) -> object:
    return os.listdir("/dev")


@attempt_to
def list_temporary_files(targets: Targets) -> object:
    return os.listdir("/tmp")


@attempt_to
def look_whether_a_file_exists(targets: Targets) -> object:
    return os.stat(targets["env_local"]).st_size


@attempt_to
def look_whether_a_file_may_be_read(targets: Targets) -> object:
    checked(libc.access(targets["env_local"].encode(), os.F_OK))
    return True


@attempt_to
def follow_a_link_outside(targets: Targets) -> object:
    return os.readlink(targets["link"])


@attempt_to
def find_free_space(targets: Targets) -> object:
    return os.statvfs(str(pathlib.Path(targets["env_local"]).parent)).f_bfree


@attempt_to
def open_a_path_without_reading(targets: Targets) -> object:
    return os.open(targets["env_local"], os.O_PATH)


@attempt_to
def open_by_handle(targets: Targets) -> object:
    buffer = ctypes.create_string_buffer(struct.pack("Ii", 120, 0) + bytes(120), 128)
    mount = ctypes.c_int()
    call(303, -100, targets["env_local"].encode(), buffer, ctypes.byref(mount), 0)
    return call(304, -100, buffer, os.O_RDONLY)


@attempt_to
def open_by_an_invented_handle(targets: Targets) -> object:
    folder = os.open(HERE, os.O_RDONLY)
    handle = ctypes.create_string_buffer(struct.pack("Ii", 8, 1) + struct.pack("II", 2, 0), 16)
    return call(304, folder, handle, os.O_RDONLY)


@attempt_to
def open_with_openat2(targets: Targets) -> object:
    how = ctypes.create_string_buffer(struct.pack("QQQ", 0, 0, 0), 24)
    return call(437, -100, targets["env_local"].encode(), how, 24)


@attempt_to
def leave_working_folder(targets: Targets) -> object:
    checked(libc.chdir(b"/"))
    return os.getcwd()


@attempt_to
def leave_working_folder_by_descriptor(targets: Targets) -> object:
    return checked(libc.fchdir(os.open(HERE, os.O_RDONLY)))


@attempt_to
def change_root(targets: Targets) -> object:
    return checked(libc.chroot(HERE.encode()))


@attempt_to
def watch_files(targets: Targets) -> object:
    return checked(libc.inotify_init())


@attempt_to
def watch_all_files(targets: Targets) -> object:
    return call(300, 0, 0)


# Files: writing


def create(path: str) -> object:
    return checked(libc.open(path.encode(), os.O_WRONLY | os.O_CREAT, 0o600))


@attempt_to
def create_beside_the_code(targets: Targets) -> object:
    return create(HERE + "/created.py")


@attempt_to
def create_in_tmp(targets: Targets) -> object:
    return create(targets["left_outside"][0])


@attempt_to
def create_in_shared_memory(targets: Targets) -> object:
    return create(targets["left_outside"][1])


@attempt_to
def create_in_root(targets: Targets) -> object:
    return create(targets["left_outside"][2])


@attempt_to
def create_unnamed(targets: Targets) -> object:
    return checked(libc.open(HERE.encode(), os.O_RDWR | os.O_TMPFILE, 0o600))


@attempt_to
def create_in_memory(targets: Targets) -> object:
    return call(319, b"name", 0)


@attempt_to
def create_secret_memory(targets: Targets) -> object:
    return call(447, 0)


@attempt_to
def create_with_creat(targets: Targets) -> object:
    return checked(libc.creat((HERE + "/created").encode(), 0o600))


@attempt_to
def overwrite_own_code(targets: Targets) -> object:
    return checked(libc.open(__file__.encode(), os.O_WRONLY))


@attempt_to
def append_to_own_code(targets: Targets) -> object:
    return checked(libc.open(__file__.encode(), os.O_RDWR | os.O_APPEND))


@attempt_to
def overwrite_python(targets: Targets) -> object:
    return checked(libc.open(os.__file__.encode(), os.O_WRONLY))


@attempt_to
def overwrite_sdk(targets: Targets) -> object:
    specification = importlib.util.find_spec("flux_guest")
    assert specification is not None and specification.origin is not None
    return checked(libc.open(specification.origin.encode(), os.O_WRONLY))


@attempt_to
def poison_compiled_code(targets: Targets) -> object:
    checked(libc.mkdir((HERE + "/__pycache__").encode(), 0o700))
    return create(HERE + "/__pycache__/attempts.cpython-311.pyc")


@attempt_to
def write_through_a_mapping(targets: Targets) -> object:
    with open(__file__, "rb") as file:
        return mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)


@attempt_to
def write_through_a_mapping_made_writable(targets: Targets) -> object:
    with open(__file__, "rb") as file:
        address = libc.mmap(None, 4096, 1, 1, file.fileno(), 0)
    return checked(libc.mprotect(ctypes.c_void_p(address), 4096, 3))


@attempt_to
def truncate_own_code(targets: Targets) -> object:
    return checked(libc.truncate(__file__.encode(), ctypes.c_long(0)))


@attempt_to
def make_folder(targets: Targets) -> object:
    return checked(libc.mkdir((HERE + "/made").encode(), 0o700))


@attempt_to
def remove_own_code(targets: Targets) -> object:
    return checked(libc.unlink(__file__.encode()))


@attempt_to
def rename_own_code(targets: Targets) -> object:
    return checked(libc.rename(__file__.encode(), (HERE + "/renamed.py").encode()))


@attempt_to
def make_link(targets: Targets) -> object:
    return checked(libc.link(__file__.encode(), (HERE + "/linked.py").encode()))


@attempt_to
def make_symbolic_link(targets: Targets) -> object:
    return checked(libc.symlink(b"/etc/passwd", (HERE + "/link").encode()))


@attempt_to
def make_device(targets: Targets) -> object:
    return call(133, (HERE + "/device").encode(), 0o060600, 0xFE00)


@attempt_to
def make_fifo(targets: Targets) -> object:
    return checked(libc.mkfifo((HERE + "/fifo").encode(), 0o600))


@attempt_to
def change_mode(targets: Targets) -> object:
    return checked(libc.chmod(__file__.encode(), 0o777))


@attempt_to
def change_mode_by_descriptor(targets: Targets) -> object:
    return checked(libc.fchmod(os.open(__file__, os.O_RDONLY), 0o777))


@attempt_to
def change_owner(targets: Targets) -> object:
    return checked(libc.chown(__file__.encode(), 0, 0))


@attempt_to
def change_times(targets: Targets) -> object:
    return checked(libc.utimes(__file__.encode(), None))


@attempt_to
def set_attribute(targets: Targets) -> object:
    return checked(libc.setxattr(__file__.encode(), b"user.x", b"1", 1, 0))


@attempt_to
def lock_a_file_of_others(targets: Targets) -> object:
    return checked(libc.flock(os.open(os.__file__, os.O_RDONLY), 2))


@attempt_to
def lock_a_range_of_a_file_of_others(targets: Targets) -> object:
    lock = struct.pack("hhqqi", 0, 0, 0, 0, 0)
    return checked(libc.fcntl(os.open(os.__file__, os.O_RDONLY), 6, lock))


@attempt_to
def be_told_of_changes_by_signal(targets: Targets) -> object:
    return checked(libc.fcntl(os.open(HERE, os.O_RDONLY), 1026, 0x8))


# Mounts


@attempt_to
def mount_tmpfs(targets: Targets) -> object:
    return checked(libc.mount(b"x", HERE.encode(), b"tmpfs", 0, None))


@attempt_to
def mount_proc(targets: Targets) -> object:
    return checked(libc.mount(b"proc", HERE.encode(), b"proc", 0, None))


@attempt_to
def bind_mount(targets: Targets) -> object:
    return checked(libc.mount(b"/", HERE.encode(), None, 4096, None))


@attempt_to
def remount_writable(targets: Targets) -> object:
    return checked(libc.mount(None, HERE.encode(), None, 32 | 4096, None))


@attempt_to
def unmount(targets: Targets) -> object:
    return checked(libc.umount2(HERE.encode(), 2))


@attempt_to
def pivot_root(targets: Targets) -> object:
    return call(155, b".", b".")


@attempt_to
def open_tree(targets: Targets) -> object:
    return call(428, -100, b"/", 1)


@attempt_to
def open_file_system(targets: Targets) -> object:
    return call(430, b"tmpfs", 0)


@attempt_to
def set_mount_attributes(targets: Targets) -> object:
    return call(
        442, -100, HERE.encode(), 0, ctypes.create_string_buffer(struct.pack("4Q", 0, 1, 0, 0), 32), 32
    )


# Processes


@attempt_to
def fork(targets: Targets) -> object:
    child = checked(libc.fork())
    if child == 0:
        libc._exit(0)
    return child


@attempt_to
def fork_by_number(targets: Targets) -> object:
    child = call(57)
    if child == 0:
        libc._exit(0)
    return child


@attempt_to
def fork_with_clone3(targets: Targets) -> object:
    arguments = ctypes.create_string_buffer(struct.pack("11Q", 0, 0, 0, 0, 17, *[0] * 6), 88)
    child = call(435, arguments, 88)
    if child == 0:
        libc._exit(0)
    return child


@attempt_to
def start_a_thread(targets: Targets) -> object:
    thread = ctypes.c_ulong()
    failure = libc.pthread_create(ctypes.byref(thread), None, libc.getpid, None)
    if failure:
        raise OSError(failure, os.strerror(failure))
    return True


@attempt_to
def start_a_program(targets: Targets) -> object:
    child = ctypes.c_int()
    arguments = (ctypes.c_char_p * 2)(b"/bin/true", None)
    failure = libc.posix_spawn(ctypes.byref(child), b"/bin/true", None, None, arguments, None)
    if failure:
        raise OSError(failure, os.strerror(failure))
    return child.value


@attempt_to
def become_a_program(targets: Targets) -> object:
    return call(59, b"/bin/true", (ctypes.c_char_p * 2)(b"/bin/true", None), None)


@attempt_to
def become_a_program_by_descriptor(targets: Targets) -> object:
    program = os.open(os.__file__, os.O_RDONLY)
    return call(322, program, b"", (ctypes.c_char_p * 2)(b"x", None), None, 0x1000)


@attempt_to
def kill_the_victim(targets: Targets) -> object:
    return checked(libc.kill(targets["victim"], signal.SIGKILL))


@attempt_to
def signal_the_supervisor(targets: Targets) -> object:
    return checked(libc.kill(targets["supervisor"], 0))


@attempt_to
def kill_the_zygote(targets: Targets) -> object:
    return checked(libc.kill(os.getppid(), signal.SIGKILL))


@attempt_to
def signal_the_first_process(targets: Targets) -> object:
    return checked(libc.kill(1, 0))


@attempt_to
def signal_a_neighbour(targets: Targets) -> object:
    for pid in range(os.getpid() - 1, os.getpid() - 6, -1):
        if pid > 2:
            checked(libc.kill(pid, 0))
    return True


@attempt_to
def signal_everybody(targets: Targets) -> object:
    return checked(libc.kill(-1, 0))


@attempt_to
def kill_the_group(targets: Targets) -> object:
    return checked(libc.kill(0, signal.SIGKILL))


@attempt_to
def see_whether_a_process_is_there(targets: Targets) -> object:
    return checked(libc.kill(targets["victim"], 0))


@attempt_to
def kill_a_thread_of_the_zygote(targets: Targets) -> object:
    return call(234, os.getppid(), os.getppid(), signal.SIGKILL)


@attempt_to
def queue_a_signal(targets: Targets) -> object:
    return call(129, os.getppid(), signal.SIGUSR1, ctypes.create_string_buffer(128))


@attempt_to
def get_a_handle_of_the_zygote(targets: Targets) -> object:
    return call(434, os.getppid(), 0)


@attempt_to
def get_a_handle_of_the_victim(targets: Targets) -> object:
    return call(434, targets["victim"], 0)


@attempt_to
def signal_by_handle(targets: Targets) -> object:
    return call(424, 3, signal.SIGKILL, None, 0)


@attempt_to
def take_a_descriptor_from_a_process(targets: Targets) -> object:
    return call(438, 3, 0, 0)


@attempt_to
def trace_the_zygote(targets: Targets) -> object:
    return call(101, 16, os.getppid(), 0, 0)


@attempt_to
def trace_the_victim(targets: Targets) -> object:
    return call(101, 0x4206, targets["victim"], 0, 0)


@attempt_to
def be_traced(targets: Targets) -> object:
    return call(101, 0, 0, 0, 0)


def _remote(number: int, pid: int) -> int:
    buffer = ctypes.create_string_buffer(8)
    vector = struct.pack("QQ", ctypes.addressof(buffer), 8)
    return call(number, pid, vector, 1, vector, 1, 0)


@attempt_to
def read_memory_of_the_zygote(targets: Targets) -> object:
    return _remote(310, os.getppid())


@attempt_to
def write_memory_of_the_zygote(targets: Targets) -> object:
    return _remote(311, os.getppid())


@attempt_to
def read_memory_of_the_victim(targets: Targets) -> object:
    return _remote(310, targets["victim"])


@attempt_to
def compare_with_another_process(targets: Targets) -> object:
    return call(312, os.getpid(), os.getppid(), 0, 3, 3)


@attempt_to
def slow_the_zygote_down(targets: Targets) -> object:
    return call(141, 0, os.getppid(), 19)


@attempt_to
def choose_a_scheduler(targets: Targets) -> object:
    return call(144, 0, 1, struct.pack("i", 1))


@attempt_to
def choose_a_processor(targets: Targets) -> object:
    return call(203, 0, 8, struct.pack("Q", 1))


@attempt_to
def choose_a_disk_priority(targets: Targets) -> object:
    return call(251, 1, 0, 1 << 13)


@attempt_to
def leave_the_process_group(targets: Targets) -> object:
    return call(109, 0, 0)


@attempt_to
def leave_the_session(targets: Targets) -> object:
    return call(112)


@attempt_to
def outlive_the_zygote(targets: Targets) -> object:
    return call(157, 1, 0, 0, 0, 0)


@attempt_to
def move_memory_of_the_zygote(targets: Targets) -> object:
    return call(279, os.getppid(), 0, None, None, None, 0)


# Network


def make_socket(family: int, kind: int, protocol: int = 0) -> object:
    return checked(libc.socket(family, kind, protocol))


SOCKETS = {
    "make_tcp_socket": (socket.AF_INET, socket.SOCK_STREAM, 0),
    "make_udp_socket": (socket.AF_INET, socket.SOCK_DGRAM, 0),
    "make_tcp6_socket": (socket.AF_INET6, socket.SOCK_STREAM, 0),
    "make_raw_socket": (socket.AF_INET, socket.SOCK_RAW, 1),
    "make_ping_socket": (socket.AF_INET, socket.SOCK_DGRAM, 1),
    "make_packet_socket": (17, socket.SOCK_RAW, 0),
    "make_netlink_socket": (16, socket.SOCK_RAW, 0),
    "make_audit_socket": (16, socket.SOCK_RAW, 9),
    "make_crypto_socket": (38, socket.SOCK_SEQPACKET, 0),
    "make_vsock_socket": (40, socket.SOCK_STREAM, 0),
    "make_bluetooth_socket": (31, socket.SOCK_RAW, 0),
    "make_xdp_socket": (44, socket.SOCK_RAW, 0),
    "make_unix_socket": (socket.AF_UNIX, socket.SOCK_STREAM, 0),
}
for _name, _socket in SOCKETS.items():
    ATTEMPTS[_name] = lambda targets, made=_socket: make_socket(*made)


@attempt_to
def connect_to_the_server(targets: Targets) -> object:
    address = ("127.0.0.1", targets["port"])
    connection = checked(libc.socket(socket.AF_INET, socket.SOCK_STREAM, 0))
    packed = (
        struct.pack("=H", socket.AF_INET)
        + struct.pack("!H", address[1])
        + socket.inet_aton(address[0])
        + bytes(8)
    )
    return checked(libc.connect(connection, packed, 16))


def _to_unix(targets: Targets, path: bytes, kind: int) -> object:
    made = checked(libc.socket(socket.AF_UNIX, kind, 0))
    address = struct.pack("=H", socket.AF_UNIX) + path
    return checked(libc.sendto(made, b"x", 1, 0, address, len(address)))


@attempt_to
def send_to_a_unix_socket(targets: Targets) -> object:
    return _to_unix(targets, targets["unix"].encode() + b"\0", socket.SOCK_DGRAM)


@attempt_to
def send_to_an_abstract_socket(targets: Targets) -> object:
    return _to_unix(targets, b"\0" + targets["abstract"].encode(), socket.SOCK_DGRAM)


@attempt_to
def send_from_a_pair_of_datagram_sockets(targets: Targets) -> object:
    pair = (ctypes.c_int * 2)()
    checked(libc.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM, 0, pair))
    address = struct.pack("=H", socket.AF_UNIX) + targets["unix"].encode() + b"\0"
    return checked(libc.sendto(pair[0], b"x", 1, 0, address, len(address)))


@attempt_to
def connect_the_wire_to_something_else(targets: Targets) -> object:
    address = struct.pack("=H", socket.AF_UNIX) + targets["unix"].encode() + b"\0"
    return checked(libc.connect(3, address, len(address)))


@attempt_to
def unconnect_the_wire(targets: Targets) -> object:
    return checked(libc.connect(3, struct.pack("=H", 0) + bytes(14), 16))


@attempt_to
def name_the_wire(targets: Targets) -> object:
    return checked(libc.bind(3, struct.pack("=H", 1) + b"\0named-by-a-guest", 19))


@attempt_to
def listen_on_the_wire(targets: Targets) -> object:
    return checked(libc.listen(3, 1))


@attempt_to
def send_a_descriptor_to_the_host(targets: Targets) -> object:
    data = (ctypes.c_char * 1)(b"\n")
    vector = (ctypes.c_ulong * 2)(ctypes.addressof(data), 1)
    control = ctypes.create_string_buffer(struct.pack("QiiiI", 20, 1, 1, 0, 0), 24)
    header = (ctypes.c_ulong * 7)(0, 0, ctypes.addressof(vector), 1, ctypes.addressof(control), 24, 0)
    return call(46, 3, header, 0)


@attempt_to
def receive_descriptors_from_the_host(targets: Targets) -> object:
    data = (ctypes.c_char * 1)()
    vector = (ctypes.c_ulong * 2)(ctypes.addressof(data), 1)
    header = (ctypes.c_ulong * 7)(0, 0, ctypes.addressof(vector), 1, 0, 0, 0)
    try:
        return call(47, 3, header, 0x40)
    except BlockingIOError:
        return "allowed"


@attempt_to
def ask_who_is_at_the_other_end(targets: Targets) -> object:
    credentials, size = ctypes.create_string_buffer(12), ctypes.c_int(12)
    return call(55, 3, 1, 17, credentials, ctypes.byref(size)) or credentials.raw.hex()


@attempt_to
def enlarge_the_buffer_of_the_wire(targets: Targets) -> object:
    return call(54, 3, 1, 7, struct.pack("i", 1 << 30), 4)


@attempt_to
def close_the_wire_of_the_host(targets: Targets) -> object:
    return call(48, 3, 2)


@attempt_to
def stop_reading_the_wire_of_the_host(targets: Targets) -> object:
    return call(48, 3, 0)


@attempt_to
def close_the_wire_of_the_host_as_a_wide_number(targets: Targets) -> object:
    return call(48, 1 << 32 | 3, 0)


@attempt_to
def close_the_wire_of_the_host_by_another_number(targets: Targets) -> object:
    other = call(72, 3, 0, 40)
    return call(48, other, 0)


@attempt_to
def make_an_io_ring(targets: Targets) -> object:
    return call(425, 4, ctypes.create_string_buffer(120))


@attempt_to
def make_asynchronous_io(targets: Targets) -> object:
    return call(206, 1, ctypes.byref(ctypes.c_ulong(0)))


# Privileges


@attempt_to
def become_root(targets: Targets) -> object:
    checked(libc.setuid(0))
    refused_if(os.getuid() != 0 or targets["is_root"], "it was root all along")
    return True


@attempt_to
def become_somebody(targets: Targets) -> object:
    return checked(libc.setresuid(1, 1, 1))


@attempt_to
def become_a_group(targets: Targets) -> object:
    return checked(libc.setresgid(0, 0, 0))


@attempt_to
def join_groups(targets: Targets) -> object:
    return checked(libc.setgroups(1, struct.pack("I", 0)))


@attempt_to
def become_somebody_for_files(targets: Targets) -> object:
    call(122, 1)
    return call(122, -1) == 1 or refused_if(True, "not changed")


@attempt_to
def regain_capabilities(targets: Targets) -> object:
    header = struct.pack("Ii", 0x20080522, 0)
    return call(126, header, struct.pack("6I", *[0xFFFFFFFF] * 6))


@attempt_to
def regain_ambient_capabilities(targets: Targets) -> object:
    return call(157, 47, 2, 21, 0, 0)


@attempt_to
def unlock_security_bits(targets: Targets) -> object:
    return call(157, 28, 0, 0, 0, 0)


@attempt_to
def be_dumpable(targets: Targets) -> object:
    return call(157, 4, 1, 0, 0, 0)


@attempt_to
def adopt_orphans(targets: Targets) -> object:
    return call(157, 36, 1, 0, 0, 0)


@attempt_to
def move_the_memory_map(targets: Targets) -> object:
    return call(157, 35, 13, 0, 0, 0)


@attempt_to
def install_a_filter(targets: Targets) -> object:
    code = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7FFF0000), 8)
    return call(317, 1, 0, struct.pack("HxxxxxxQ", 1, ctypes.addressof(code)))


@attempt_to
def listen_to_system_calls(targets: Targets) -> object:
    code = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7FC00000), 8)
    return call(317, 1, 8, struct.pack("HxxxxxxQ", 1, ctypes.addressof(code)))


NAMESPACES = {
    "user": 0x10000000,
    "mount": 0x00020000,
    "pid": 0x20000000,
    "network": 0x40000000,
    "ipc": 0x08000000,
    "uts": 0x04000000,
    "cgroup": 0x02000000,
    "time": 0x00000080,
}
for _name, _flag in NAMESPACES.items():
    ATTEMPTS[f"make_a_{_name}_namespace"] = lambda targets, flag=_flag: call(272, flag)


@attempt_to
def fork_into_a_user_namespace(targets: Targets) -> object:
    child = call(56, 0x10000011, None, None, None, None)
    if child == 0:
        libc._exit(0)
    return child


@attempt_to
def enter_a_namespace(targets: Targets) -> object:
    return call(308, 3, 0)


@attempt_to
def add_a_key(targets: Targets) -> object:
    return call(248, b"user", b"flux-escape", b"x", 1, -3)


@attempt_to
def ask_for_a_key(targets: Targets) -> object:
    return call(250, 0, -3, 1)


@attempt_to
def load_a_bpf_program(targets: Targets) -> object:
    return call(321, 0, ctypes.create_string_buffer(struct.pack("IIII", 2, 4, 4, 1) + bytes(112), 128), 128)


@attempt_to
def count_performance(targets: Targets) -> object:
    attributes = ctypes.create_string_buffer(struct.pack("IIQ", 1, 112, 0) + bytes(96), 112)
    return call(298, attributes, 0, -1, -1, 0)


@attempt_to
def handle_page_faults(targets: Targets) -> object:
    return call(323, 1)


@attempt_to
def change_personality(targets: Targets) -> object:
    return call(135, 0x0040000)


@attempt_to
def reach_io_ports(targets: Targets) -> object:
    return call(172, 3)


@attempt_to
def change_segments(targets: Targets) -> object:
    return call(154, 0, ctypes.create_string_buffer(16), 16)


@attempt_to
def load_a_module(targets: Targets) -> object:
    return call(175, b"x", 1, b"")


@attempt_to
def load_a_kernel(targets: Targets) -> object:
    return call(246, 0, 0, None, 0)


@attempt_to
def reboot(targets: Targets) -> object:
    return call(169, 0xFEE1DEAD, 672274793, 0, None)


@attempt_to
def set_the_clock(targets: Targets) -> object:
    return call(227, 0, struct.pack("qq", 0, -1))


@attempt_to
def adjust_the_clock(targets: Targets) -> object:
    return call(159, ctypes.create_string_buffer(208))


@attempt_to
def name_the_machine(targets: Targets) -> object:
    return call(170, b"x", 1)


@attempt_to
def read_the_log_of_the_kernel(targets: Targets) -> object:
    return call(103, 3, ctypes.create_string_buffer(100), 100)


@attempt_to
def swap(targets: Targets) -> object:
    return call(168, b"/")


@attempt_to
def account_processes(targets: Targets) -> object:
    return call(163, None)


@attempt_to
def hang_up_the_terminal(targets: Targets) -> object:
    return call(153)


@attempt_to
def type_into_the_terminal(targets: Targets) -> object:
    return call(16, 2, 0x5412, b"x")


@attempt_to
def set_quota(targets: Targets) -> object:
    return call(179, 0x80000100, None, 0, None)


@attempt_to
def read_statistics_of_the_machine(targets: Targets) -> object:
    return call(99, ctypes.create_string_buffer(112))


@attempt_to
def list_mounts(targets: Targets) -> object:
    request = ctypes.create_string_buffer(struct.pack("IIQQ", 24, 0, 0xFFFFFFFFFFFFFFFF, 0), 24)
    return call(458, request, (ctypes.c_ulong * 10)(), 10, 0)


@attempt_to
def seal_memory(targets: Targets) -> object:
    return call(462, 0, 0, 0)


# Between processes


@attempt_to
def attach_shared_memory(targets: Targets) -> object:
    return call(29, targets["shared_memory_key"], 4096, 0)


@attempt_to
def make_shared_memory(targets: Targets) -> object:
    return call(29, 0, 4096, 0o1600)


@attempt_to
def make_semaphores(targets: Targets) -> object:
    return call(64, 0, 1, 0o1600)


@attempt_to
def make_a_message_queue(targets: Targets) -> object:
    return call(68, 0, 0o1600)


@attempt_to
def open_a_posix_queue(targets: Targets) -> object:
    return call(240, b"flux-escape", os.O_RDWR | os.O_CREAT, 0o600, None)


@attempt_to
def make_a_pipe(targets: Targets) -> object:
    return checked(libc.pipe((ctypes.c_int * 2)()))


@attempt_to
def splice(targets: Targets) -> object:
    return call(275, 0, None, 1, None, 0, 0)


@attempt_to
def give_pages_to_a_pipe(targets: Targets) -> object:
    data = ctypes.create_string_buffer(16)
    return call(278, 1, struct.pack("QQ", ctypes.addressof(data), 16), 1, 0)


@attempt_to
def send_a_file(targets: Targets) -> object:
    return call(40, 1, os.open(__file__, os.O_RDONLY), None, 10)


@attempt_to
def make_a_timer(targets: Targets) -> object:
    return call(222, 1, None, ctypes.byref(ctypes.c_int()))


@attempt_to
def make_an_event(targets: Targets) -> object:
    return call(290, 0, 0)


@attempt_to
def set_an_alarm(targets: Targets) -> object:
    call(37, 1000)
    return True


# Memory and limits


@attempt_to
def use_more_memory_than_allowed(targets: Targets) -> object:
    return len(bytearray(targets["memory_bytes"] + MIB))


@attempt_to
def use_shared_memory_that_no_limit_counts(targets: Targets) -> object:
    return len(mmap.mmap(-1, 600 * MIB))


@attempt_to
def use_memory_that_grows_like_a_stack(targets: Targets) -> object:
    address = libc.mmap(None, 600 * MIB, 3, 0x122, -1, 0)
    refused_if(address in (None, 2**64 - 1), "refused")
    return address


@attempt_to
def use_huge_pages(targets: Targets) -> object:
    address = libc.mmap(None, 2 * MIB, 3, 0x40022, -1, 0)
    refused_if(address in (None, 2**64 - 1), "refused")
    return address


@attempt_to
def make_readable_memory_writable_past_the_limit(targets: Targets) -> object:
    address = libc.mmap(None, 600 * MIB, 1, 0x22, -1, 0)
    return checked(libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(600 * MIB), 3))


@attempt_to
def reserve_all_addresses(targets: Targets) -> object:
    address = libc.mmap(None, 1 << 44, 0, 0x4022, -1, 0)
    refused_if(address in (None, 2**64 - 1), "refused")
    return address


@attempt_to
def pin_memory(targets: Targets) -> object:
    address = libc.mmap(None, MIB, 3, 0x22, -1, 0)
    return checked(libc.mlock(ctypes.c_void_p(address), MIB))


@attempt_to
def pin_all_memory(targets: Targets) -> object:
    return checked(libc.mlockall(1))


LIMITS = (
    "DATA",
    "AS",
    "STACK",
    "NOFILE",
    "FSIZE",
    "CORE",
    "NPROC",
    "CPU",
    "MEMLOCK",
    "MSGQUEUE",
    "RTPRIO",
    "NICE",
)
for _name in LIMITS:

    def _raise(targets: Targets, name: str = _name) -> object:
        number = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(number)[1]
        if hard == resource.RLIM_INFINITY:
            return "there is none"
        resource.setrlimit(number, (hard + 1, hard + 1))
        return hard + 1

    ATTEMPTS[f"raise_limit_{_name.lower()}"] = _raise


@attempt_to
def change_limits_of_the_zygote(targets: Targets) -> object:
    return call(302, os.getppid(), 7, struct.pack("QQ", 10, 10), None)


@attempt_to
def use_up_descriptors_of_the_machine(targets: Targets) -> object:
    held = []
    while len(held) < 5000:
        held.append(os.dup(0))
    return len(held)


@attempt_to
def fault_into_memory_policy(targets: Targets) -> object:
    return call(238, 0, None, 0)


# Other ways into the kernel


@attempt_to
def call_by_interrupt_80(targets: Targets) -> object:
    return run_code(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # mov eax, 20 (getpid); int 0x80; ret


@attempt_to
def open_by_interrupt_80(targets: Targets) -> object:
    return run_code(b"\x31\xc9\x31\xdb\xb8\x05\x00\x00\x00\xcd\x80\xc3")  # open of i386


@attempt_to
def call_by_x32(targets: Targets) -> object:
    return run_code(b"\xb8\x27\x00\x00\x40\x0f\x05\xc3")  # mov eax, x32 getpid; syscall; ret


@attempt_to
def call_with_a_number_of_the_future(targets: Targets) -> object:
    return call(1000)


@attempt_to
def call_with_a_wide_number(targets: Targets) -> object:
    # The kernel takes the lower half of the number; this one is socket's, with something above it.
    code = (
        b"\x48\xb8"
        + struct.pack("Q", 41 | 1 << 32)
        + b"\xbf\x02\x00\x00\x00\xbe\x01\x00\x00\x00\x31\xd2\x0f\x05\xc3"
    )
    result = run_code(code)
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


@attempt_to
def open_with_flags_in_the_upper_half(targets: Targets) -> object:
    return call(257, -100, __file__.encode(), (1 << 32) | os.O_WRONLY, 0)


# What was left lying about


@attempt_to
def find_an_inherited_descriptor(targets: Targets) -> object:
    for number in range(4, 1024):
        try:
            os.fstat(number)
        except OSError:
            continue
        return number
    raise PermissionError("there is none")


@attempt_to
def find_a_secret_in_the_environment(targets: Targets) -> object:
    libc.getenv.restype = ctypes.c_char_p
    value = libc.getenv(targets["variable"].encode())
    refused_if(value is None and targets["variable"] not in os.environ, "there is none")
    return True


@attempt_to
def find_a_secret_where_the_environment_was(targets: Targets) -> object:
    # The block that the process was started with stays above the stack, whatever environ says later.
    here = run_code(b"\x48\x89\xe0\xc3")  # mov rax, rsp; ret
    page, found = here & ~4095, b""
    while libc.madvise(ctypes.c_void_p(page), 4096, 0) == 0:
        found += ctypes.string_at(page, 4096)
        page += 4096
    refused_if(targets["secret"].encode() not in found, "there is none")
    return True


@attempt_to
def find_a_secret_in_memory(targets: Targets) -> object:
    import gc

    wanted = targets["secret"]
    for thing in gc.get_objects():
        if (
            isinstance(thing, dict)
            and thing is not targets
            and any(
                isinstance(value, str) and wanted == value
                for value in list(thing.values())
                if value is not wanted
            )
        ):
            return True
    raise PermissionError("there is none")


@attempt_to
def find_what_the_last_execution_left(targets: Targets) -> object:
    global left_behind
    before = globals().get("left_behind")
    left_behind = True
    refused_if(not before, "nothing was left")
    return before


@attempt_to
def find_the_control_socket(targets: Targets) -> object:
    # Whatever says "forked" on descriptor 3 of a worker must reach nobody who believes it.
    for number in (4, 5, 6, 7, 8, 9, 100):
        try:
            return os.write(number, b'{"forked": 1}\n')
        except OSError as error:
            assert error.errno == errno.EBADF
    raise PermissionError("there is none")


@attempt_to
def import_the_supervisors_code(targets: Targets) -> object:
    import flux.store.postgres

    refused_if(True, f"it is only code: {flux.store.postgres.__name__}")
    return None


@function("POST /attempt")
def attempt(ctx: Context, input: dict) -> dict:
    """Run one attempt and say how it went."""
    return run_attempt(input["name"], input["targets"])


def run_attempt(name: str, targets: Targets) -> dict:
    try:
        got = ATTEMPTS[name](targets)
    except OSError as error:
        return {"got": None, "refused": errno.errorcode.get(error.errno or 0, str(error))}
    except Exception as error:
        return {"got": None, "refused": f"{type(error).__name__}: {error}"}
    return {"got": repr(got)[:80], "refused": None}


@function("GET /names")
def names(ctx: Context, input: dict) -> list[str]:
    """Return what can be attempted."""
    return list(ATTEMPTS)
