from .claim import Claim as Claim, Verdict as Verdict, decided as decided
from .deciding import (
    Decision as Decision,
    Question as Question,
    both as both,
    decide as decide,
    of_bounds as of_bounds,
    of_cases as of_cases,
    of_estimates as of_estimates,
    of_networks as of_networks,
)
from .records import (
    complaint as complaint,
    entries as entries,
    markdown as markdown,
    plain as plain,
    record as record,
    replace_text as replace_text,
    table as table,
)
