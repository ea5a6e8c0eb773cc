"""docs/use/errors.md says what riafs/errors.py says."""

import errno

from tests.docs import errortable


def test_page_is_up_to_date() -> None:
    assert errortable.PAGE.read_text() == errortable.page(), "run: python -m tests.docs.errortable"


def test_every_failure_says_what_it_means_to_programs_and_shells() -> None:
    for kind in errortable.kinds():
        assert kind.__doc__, kind
        assert kind.errno in errno.errorcode
        assert kind.exit_code in {1, 2, 4, 8, 16, 32}
