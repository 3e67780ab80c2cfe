"""All that the demo model understands, in the order in which a request is compared with it."""

from billing.gateway.demo.talk import SHORT, TALKS
from billing.gateway.demo.tasks.counting import COUNT
from billing.gateway.demo.tasks.facts import FACTS
from billing.gateway.demo.tasks.fibonacci import FIBONACCI
from billing.gateway.demo.tasks.files import EXPLAIN, LIST, SHOW
from billing.gateway.demo.tasks.fizzbuzz import FIZZBUZZ
from billing.gateway.demo.tasks.functions import FUNCTIONS
from billing.gateway.demo.tasks.pages import TODO
from billing.gateway.demo.tasks.primes import PRIMES
from billing.gateway.demo.tasks.repairing import REPAIR
from billing.gateway.demo.tasks.searching import GIT, SEARCH
from billing.gateway.demo.tasks.tables import CSV
from billing.gateway.demo.tasks.testing import TESTS
from billing.gateway.demo.tasks.texts import CODE, SAY
from billing.gateway.demo.understanding import Understanding

UNDERSTANDING = Understanding(
    (
        *(topic for topic in TALKS if topic.key not in SHORT),
        *(CODE, REPAIR, TESTS, TODO, CSV, FIZZBUZZ),
        *FUNCTIONS,
        *(PRIMES, FIBONACCI, GIT, COUNT, SEARCH, SHOW, EXPLAIN, LIST),
        *FACTS,
        SAY,
        *(topic for topic in TALKS if topic.key in SHORT),
    )
)
