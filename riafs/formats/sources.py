"""Every source a user can name: RIA stores, Keep places with manifests, Arvados clusters."""

from riafs.formats.keepurl import ArvadosUrl, KeepUrl, parse_arvados_url, parse_keep_url
from riafs.formats.riaurl import RiaUrl
from riafs.formats.riaurl import parse_source as parse_ria_source

Source = RiaUrl | KeepUrl | ArvadosUrl


def parse_source(text: str) -> Source:
    """The source that `text` names. Raises BadSource."""
    scheme = text.partition("://")[0]
    if scheme == "arvados":
        return parse_arvados_url(text)
    if scheme.startswith("keep+"):
        return parse_keep_url(text)
    return parse_ria_source(text)
