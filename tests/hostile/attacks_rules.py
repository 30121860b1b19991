"""The rows of the table of rules, as attacks on a running fwd: each on one of the ring formats that have the rule."""

from __future__ import annotations

from tests.hostile.attack import attack
from tests.hostile.rules import RULES, Rule, breaks
from tests.hostile.scene import Scene

for rule in RULES.values():
    for queue in rule.live:

        def broken_rule(scene: Scene, rule: Rule = rule, queue: int = queue) -> None:
            breaks(scene, rule, queue)

        attack(rule.bug, name=rule.called(queue), rings=rule.rings)(broken_rule)
