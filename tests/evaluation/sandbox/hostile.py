"""Programs that attack the machine: what each tries, the language, and its text. Each prints DONE if it succeeded."""

_ORPHAN = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(1000)
    os._exit(0)
"""

PYTHON = {
    "fork bomb": "import os\nn = 0\ntry:\n  while n < 400:\n    if os.fork() == 0:\n      import time; time.sleep(60)\n"
    "    n += 1\n  print('DONE')\nexcept OSError:\n  print('stopped', n)\n",
    "threads": "import threading, time\ntry:\n  for n in range(2000):\n"
    "    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n  print('DONE')\n"
    "except RuntimeError:\n  print('stopped', n)\nimport os; os._exit(0)\n",
    "connect": "import socket\ns = socket.socket()\ns.connect(('127.0.0.1', 22))\nprint('DONE')\n",
    "datagram": "import socket\nsocket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\nprint('DONE')\n",
    "raw socket": "import socket\nsocket.socket(socket.AF_PACKET, socket.SOCK_RAW)\nprint('DONE')\n",
    "vsock": "import socket\nsocket.socket(40, socket.SOCK_STREAM)\nprint('DONE')\n",
    "netlink": "import socket\nsocket.socket(16, socket.SOCK_RAW)\nprint('DONE')\n",
    "homes": "import os\nprint('DONE' if os.path.exists('/root') or os.path.exists('/home') else 'none')\n",
    "passwords": "print('DONE', open('/etc/passwd').read())\n",
    "shadow": "import os\nos.symlink('/etc/shadow', '/tmp/s')\nprint('DONE', open('/tmp/s').read())\n",
    "first process": "print('DONE', open('/proc/1/root/etc/hostname').read())\n",
    "environment": "import os\nknown = {'PATH', 'HOME', 'LANG', 'PWD', 'LC_CTYPE'}\n"
    "print('DONE' if set(os.environ) - known else 'bare')\n",
    "write usr": "open('/usr/octo', 'w')\nprint('DONE')\n",
    "write root": "open('/octo', 'w')\nprint('DONE')\n",
    "write source": "open('/w/program', 'a')\nprint('DONE')\n",
    "write dev": "open('/dev/octo', 'w')\nprint('DONE')\n",
    "kill all": "import os, signal\nos.kill(-1, signal.SIGKILL)\n",
    "kill first": "import os, signal\nos.kill(1, signal.SIGKILL)\nimport time; time.sleep(0.2)\nprint('alive')\n",
    "kill supervisor": "import os, signal, time\nos.kill(os.getppid(), signal.SIGKILL)\ntime.sleep(5)\nprint('DONE')\n",
    "stop supervisor": "import os, signal\nos.kill(os.getppid(), signal.SIGSTOP)\nwhile True: pass\n",
    "report of its own": "import os\nfd = os.open(f'/proc/{os.getppid()}/fd/8', os.O_WRONLY)\n"
    "os.write(fd, b'end 0 1 1 -\\n')\nprint('DONE')\n",
    "descriptors": "import os\nfound = [n for n in os.listdir('/proc/self/fd') if int(n) > 7]\n"
    "print('DONE' if len(found) > 1 else 'few', found)\n",
    "endless output": "while True: print('x' * 1000)\n",
    "endless errors": "import sys\nwhile True: sys.stderr.write('x' * 1000)\n",
    "endless channel": "import os\nwhile True: os.write(7, b'x' * 1000)\n",
    "big file": "with open('/tmp/f', 'wb') as f:\n  for _ in range(4000): f.write(b'x' * (1 << 20))\nprint('DONE')\n",
    "sparse file": "with open('/tmp/f', 'wb') as f:\n  f.truncate(100 << 30)\nprint('DONE')\n",
    "full shm": "with open('/dev/shm/f', 'wb') as f:\n  for _ in range(600): f.write(b'x' * (1 << 20))\n"
    "print('DONE')\n",
    "many files": "import os\nfor n in range(10 ** 7): open(f'/tmp/{n}', 'w').close()\nprint('DONE')\n",
    "memory": "x = []\nwhile True: x.append(bytearray(1 << 24))\n",
    "memory of children": "import os, time\nfor _ in range(8):\n  if os.fork() == 0:\n    x = bytearray(300 << 20)\n"
    "    for i in range(0, len(x), 4096): x[i] = 1\n    time.sleep(60)\ntime.sleep(60)\nprint('DONE')\n",
    "cpu of children": "import os\nfor _ in range(8):\n  if os.fork() == 0:\n    while True: pass\nos.wait()\n"
    "print('DONE')\n",
    "orphan": _ORPHAN + "print('left')\n",
    "sleep": "import time\ntime.sleep(1000)\nprint('DONE')\n",
    "ignores the limit": "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass\n",
    "unlimited": "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (1000, 1000))\nprint('DONE')\n",
    "terminal": "import fcntl\nfcntl.ioctl(0, 0x5412, b'x')\nprint('DONE')\n",
}
# System calls by number on x86_64; each must fail.
_CALLS = {
    "ptrace": 101, "unshare": 272, "setns": 308, "mount": 165, "bpf": 321, "keyctl": 250, "userfaultfd": 323,
    "io_uring_setup": 425, "perf_event_open": 298, "personality": 135, "open_by_handle_at": 304, "kexec_load": 246,
    "process_vm_readv": 310, "pivot_root": 155, "chroot": 161, "clone3": 435, "init_module": 175,
}  # fmt: skip
for _name, _number in _CALLS.items():
    PYTHON[f"system call {_name}"] = (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        f"result = libc.syscall({_number}, 0, 0, 0, 0, 0, 0)\n"
        "print('DONE' if result != -1 or ctypes.get_errno() not in (1, 38) else 'refused')\n"
    )
PYTHON["new user namespace"] = (
    "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
    "result = libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0)\nprint('DONE' if result != -1 else 'refused')\n"
)
SHELL = {
    "fork bomb in a shell": "f() { f | f & }; f; sleep 100; echo DONE",
    "background": "for i in 1 2 3 4 5; do (sleep 1000 &) ; done; echo left",
    "fill": "dd if=/dev/zero of=/tmp/x bs=1M count=4000 2>/dev/null && echo DONE",
    "mounts": "mount -t tmpfs none /tmp 2>/dev/null && echo DONE",
    "nested namespace": "unshare -U true 2>/dev/null && echo DONE",
    "devices": "for d in sda vda mem kmsg; do test -e /dev/$d && echo DONE; done\nmknod /tmp/d b 8 0 && echo DONE",
}
