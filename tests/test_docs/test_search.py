import re

from config.config import ROOT_PATH
from config.search import check_space
from tests.test_training.common import make_config

PAGE = (ROOT_PATH / "docs" / "search.rst").read_text(encoding="utf-8")


def test_the_space_of_the_page_is_one():
    (block,) = re.findall(r"code-block:: python\n\n((?:   .*\n|\n)+)", PAGE)
    names = {}
    exec(re.sub(r"(?m)^   ", "", block), names)
    from models import ConvNet

    config = make_config(MODEL=ConvNet, MODEL_CONFIG={"ch_in": 1, "n_classes": 3})
    assert check_space(names["search_space"], config) == []
