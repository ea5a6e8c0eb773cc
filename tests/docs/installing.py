"""``python -m tests.docs.installing``: run the commands of docs/use/installing.md and boot.md on this machine.

Needs root on a bare Debian 12 that may be thrown away, and a checkout as working directory. Lines that begin with
``sudo`` are run by root without it, the others by an ordinary user, who is made. What an installation has to do is
tried after each of them: mounting a store, by the user and with mount(8). Uses nothing but Python's own library.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

USER = "ada"
STORE, MOUNTPOINT = Path("/srv/store"), Path("/mnt/lab")
_SYSTEMD = "systemctl"


def main() -> int:
    """Run everything; the first failure ends it."""
    if os.getuid() != 0:
        sys.exit("needs root on a machine that may be thrown away")
    prepare()
    pages = (Path(f"docs/use/{name}.md").read_text(encoding="utf-8") for name in ("installing", "boot"))
    for command in commands("".join(pages)):
        if _SYSTEMD in command and not Path("/run/systemd/system").exists():
            print(f"-- not run, as there is no systemd here: {command}", flush=True)
            continue
        if command.startswith("riafs umount --all"):
            check_for_all()
        run(command)
        if command.endswith(".local/bin/riafs doctor"):
            check_mount(f"/home/{USER}/.local/bin/riafs", USER)
    left = [path for path in ("/opt/riafs", "/usr/local/bin/riafs", "/sbin/mount.riafs") if os.path.lexists(path)]
    print("left behind:", left or "nothing")
    return int(bool(left))


def commands(page: str) -> list[str]:
    """The lines of the page's ``sh`` blocks, those that need an installation before those that remove it."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    ordered = sorted(blocks, key=lambda block: "--remove" in block)
    return [re.sub(r"\s{2,}#.*", "", line) for block in ordered for line in block.splitlines() if line]


def prepare() -> None:
    """A user, their copy of the checkout, and a store with one dataset."""
    shell("apt-get -qq update")
    shell("test -e /etc/mtab || ln -s ../proc/self/mounts /etc/mtab")  # as a Debian that has been started has it
    shell(f"useradd --create-home --shell /bin/bash {USER}")
    shell(f"cp -r . /home/{USER}/riafs && chown -R {USER}: /home/{USER}/riafs")
    dataset = STORE / "abc" / "d0000-0001"
    (STORE / "alias").mkdir(parents=True)
    (STORE / "ria-layout-version").write_text("1\n")
    shell(
        "git init -q -b main /tmp/work && cd /tmp/work && echo hello >file && git add file && "
        f"git -c user.name=t -c user.email=t@t commit -q -m one && git clone -q --bare . {dataset}"
    )
    (dataset / "ria-layout-version").write_text("2\n")
    (STORE / "alias" / "study").symlink_to("../abc/d0000-0001")
    MOUNTPOINT.mkdir()
    shutil.chown(MOUNTPOINT, USER)


def run(command: str) -> None:
    """One line of the page, in the checkout."""
    print(f"$ {command}", flush=True)
    if command.startswith("sudo "):
        shell(f"cd /home/{USER}/riafs && {command.removeprefix('sudo ')}")
    else:
        as_user(command)


def as_user(command: str) -> None:
    """By the ordinary user."""
    subprocess.run(["su", USER, "-c", f"cd /home/{USER}/riafs && {command}"], check=True, stdin=subprocess.DEVNULL)


def shell(command: str) -> None:
    """By root."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["bash", "-ec", command], check=True, env=environment, stdin=subprocess.DEVNULL)


def check_mount(program: str, user: str) -> None:
    """That `user` can mount the store, read it and unmount it."""
    print(f"-- {user} mounts with {program}", flush=True)
    lines = f"{program} mount {STORE} {MOUNTPOINT} && cat {MOUNTPOINT}/study/file && {program} umount {MOUNTPOINT}"
    shell(lines) if user == "root" else as_user(lines)


def check_for_all() -> None:
    """That root, the user and mount(8) can mount with what is installed for all."""
    check_mount("riafs", "root")
    check_mount("riafs", USER)
    shell(f"mount -t riafs {STORE} {MOUNTPOINT} -o ro,allow_other && cat {MOUNTPOINT}/study/file")
    as_user(f"cat {MOUNTPOINT}/study/file && riafs status")
    shell(f"umount {MOUNTPOINT}")
    assert shutil.which("man") is None or Path("/usr/local/share/man/man1/riafs.1").exists()


if __name__ == "__main__":
    sys.exit(main())
