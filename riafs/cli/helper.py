"""``mount.riafs``: what mount(8) runs for the type riafs.

mount(8) gives SOURCE, DIR, flags, and always an ``-o`` (seen with util-linux 2.38), with neither HOME nor PATH in the
environment when root or /etc/fstab mounts.
"""

from collections.abc import Sequence

from riafs.cli.mount import MountRequest, mount
from riafs.cli.mountopts import sort_options
from riafs.cli.parser import build_helper_parser


def run(words: Sequence[str]) -> int:
    """Mount as mount(8) asks with the arguments `words`."""
    arguments = build_helper_parser().parse_args(words)
    options = sort_options(arguments.options, sloppy=arguments.sloppy)
    place = (arguments.source, arguments.mountpoint)
    request = MountRequest(*place, options.given, options.words, verbose=arguments.v, by_mount=True)
    return mount(request, fake=arguments.fake)
