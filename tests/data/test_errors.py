"""DataError keeps its message through pickling and through the wrapper that DataLoader workers send errors in."""

from __future__ import annotations

import pickle

import pytest
from torch._utils import ExceptionWrapper

from hf_dinoseg.errors import DataError

MESSAGE = "a.png: the file is broken; restore it.\nOr remove it."


def test_a_data_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(DataError(MESSAGE)))
    assert type(error) is DataError and str(error) == MESSAGE


def test_a_data_error_reaches_the_user_from_a_worker_as_it_was_raised() -> None:
    try:
        try:
            raise OSError("unexpected end of data: at byte 7")
        except OSError as cause:
            raise DataError(MESSAGE) from cause
    except DataError:
        wrapper = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(DataError) as raised:
        pickle.loads(pickle.dumps(wrapper)).reraise()
    assert str(raised.value) == MESSAGE
