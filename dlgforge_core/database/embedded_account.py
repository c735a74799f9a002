"""Account of the embedded Postgres when root starts it, for Postgres refuses to run as root.

The standard library only: the supervisor imports this, without site packages.
"""

import os
import pwd
from typing import NamedTuple

_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2


class SupervisorError(Exception):
    """The server cannot be run; the message goes to the log, whose end the user is shown."""


class Account(NamedTuple):
    """The account the server runs as when root starts it: Postgres refuses root."""

    uid: int
    gid: int
    capability: int | None  # a capability it needs to reach the home or the programs

    def become(self) -> None:
        """Turn the calling process, a fresh child of root, into this account."""
        os.setgroups([])
        os.setgid(self.gid)
        if self.capability is None:
            os.setuid(self.uid)
        else:
            _setuid_keeping(self.uid, self.capability)


def _setuid_keeping(uid: int, capability: int) -> None:
    """Give up root for `uid` but for one capability, which programs executed later have too."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    pr_set_keepcaps, pr_cap_ambient, pr_cap_ambient_raise = 8, 47, 2
    mask = 1 << capability
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    sets = (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0)  # effective, permitted, inheritable
    failed = libc.prctl(pr_set_keepcaps, 1, 0, 0, 0)
    os.setuid(uid)
    failed = failed or libc.capset(header, sets)
    failed = failed or libc.prctl(pr_cap_ambient, pr_cap_ambient_raise, capability, 0, 0)
    if failed:
        raise OSError(ctypes.get_errno(), "the capability to reach the data cannot be kept")


def _reaches(account: Account, home: str, install: str) -> bool:
    """Try, as the account, whether it may enter the home and read the programs."""
    child = os.fork()
    if child == 0:
        reached = False
        try:
            account.become()
            reached = (
                os.access(home, os.X_OK)
                and os.access(os.path.join(install, "bin", "postgres"), os.X_OK)
                and os.access(os.path.join(install, "lib"), os.R_OK | os.X_OK)
                and os.access(os.path.join(install, "share"), os.R_OK | os.X_OK)
            )
        finally:
            os._exit(0 if reached else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _permitted_capability() -> int | None:
    """Return the least capability at hand with which an account passes folders that are closed to it."""
    try:
        with open("/proc/self/status") as status:
            permitted = next(int(line.split()[1], 16) for line in status if line.startswith("CapPrm"))
    except (OSError, StopIteration):
        return None
    for capability in (_CAP_DAC_READ_SEARCH, _CAP_DAC_OVERRIDE):
        if permitted >> capability & 1:
            return capability
    return None


def server_account(home: str, data: str, install: str) -> Account | None:
    """Choose the account for the server; None: the present user, who is not root.

    Under root: the owner of the data, else the home's owner, else `postgres` or `nobody`, whichever exists.
    A home or an environment below a folder closed to others, such as root's own, stays as it is: the server
    gets the one capability to pass it instead.
    """
    if os.geteuid() != 0:
        return None
    candidates: list[pwd.struct_passwd] = []
    owners = [os.stat(path).st_uid for path in (data, home) if os.path.exists(path)]
    for uid in (uid for uid in owners if uid != 0):
        try:
            candidates.append(pwd.getpwuid(uid))
        except KeyError as error:
            raise SupervisorError(f"uid {uid}, which owns {home}, has no entry in /etc/passwd") from error
    system_uids = []
    for name in ("postgres", "nobody"):
        try:
            candidates.append(pwd.getpwnam(name))
            system_uids.append(candidates[-1].pw_uid)
        except KeyError:
            continue
    if not candidates:
        raise SupervisorError("Postgres refuses to run as root, and there is no account postgres or nobody")
    account = Account(candidates[0].pw_uid, candidates[0].pw_gid, None)
    if _reaches(account, home, install):
        return account
    # The home's owner is let in as the database's superuser, who reads and writes files as the server: with a
    # capability, anybody's. So only accounts that no person has get one.
    shared = any(uid not in (0, *system_uids) for uid in owners)
    capability = None if shared else _permitted_capability()
    if capability is None:
        raise SupervisorError(
            f"account {candidates[0].pw_name} cannot enter {home} or read {install}; "
            "set DLGFORGE_HOME to a folder, and install into one, whose parents all may enter"
        )
    return Account(account.uid, account.gid, capability)
