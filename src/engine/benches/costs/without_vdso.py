"""Runs a command that cannot ask the kernel for its auxiliary vector (PR_GET_AUXV), as on kernels before 6.4.

valgrind takes the vDSO away and hides it in /proc/self/auxv, but not from that call. The crate rustix asks by the call first,
and reads at the address where the vDSO was.
"""

import ctypes
import os
import struct
import sys

PRCTL = {"x86_64": 157, "aarch64": 167}[os.uname().machine]
PR_GET_AUXV, EINVAL = 0x41555856, 22
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, EQUALS, RETURN = 0x20, 0x15, 0x06
REFUSE, ALLOW = 0x0005_0000 | EINVAL, 0x7FFF_0000


class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


# The number of the call, then the lower half of its first argument.
steps = [
    (LOAD, 0, 0, 0),
    (EQUALS, 0, 3, PRCTL),
    (LOAD, 0, 0, 16),
    (EQUALS, 0, 1, PR_GET_AUXV),
    (RETURN, 0, 0, REFUSE),
    (RETURN, 0, 0, ALLOW),
]
code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
program = Program(len(steps), ctypes.cast(code, ctypes.c_void_p))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program)):
    sys.exit(f"no filter of system calls: {os.strerror(ctypes.get_errno())}")
os.execvp(sys.argv[1], sys.argv[1:])
