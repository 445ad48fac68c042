"""No template reaches Python, hangs or fills the memory; one that does nothing of the kind renders as ever."""

import time
from typing import Any

import pytest
from jinja2 import BaseLoader, Environment, StrictUndefined
from jinja2.sandbox import SecurityError
from lm_eval import utils

from loraweave.tasks.bounds import TemplateLimitError
from loraweave.tasks.sandbox import sandbox_chat_templates, sandbox_tasks

DOC: dict[str, Any] = {"x": [1, 2], "text": "one two", "label": "a", "n": 1234567}
GROW = "{% for i in range(60) %}{% set ns.x = GROWN %}{% endfor %}{{ ns.x }}"


class Picture:
    """As a data set may hold one: with a method that writes a file."""

    def save(self) -> None:
        raise AssertionError("a template wrote a file")


@pytest.fixture(autouse=True)
def sandboxed() -> None:
    sandbox_tasks()


@pytest.mark.parametrize(
    "template",
    [
        "{{ cycler.__init__.__globals__.os.getcwd() }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ (x|attr('__class__')) }}",
        "{{ '{0.__class__}'.format(x) }}",
        "{{ x.append(3) }}",
        "{{ picture.save() }}",
        "{{ picture['save']() }}",
    ],
)
def test_a_template_does_not_reach_python(template: str) -> None:
    with pytest.raises(SecurityError, match="unsafe"):
        utils.apply_template(template, {**DOC, "picture": Picture()})


@pytest.mark.parametrize(
    "template",
    [
        "{{ range(10**9)|list }}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
        "{{ 'a' * 10**9 }}",
        "{{ [0] * 10**9 }}",
        "{{ (10**4000) ** 100000 }}",
        "{% set ns = namespace(x='ab') %}" + GROW.replace("GROWN", "ns.x ~ ns.x"),
        "{% set ns = namespace(x='ab') %}" + GROW.replace("GROWN", "ns.x + ns.x"),
        "{% set ns = namespace(x=['ab']) %}" + GROW.replace("GROWN", "[ns.x, ns.x]"),
        "{% set ns = namespace(x={}) %}" + GROW.replace("GROWN", "{'a': ns.x, 'b': ns.x}"),
        "{% set ns = namespace(x={}) %}" + GROW.replace("GROWN", "dict(a=ns.x, b=ns.x)"),
        "{% set ns = namespace(x=['ab']) %}" + GROW.replace("GROWN", "namespace(a=ns.x, b=ns.x)"),
        "{% set t %}{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}{% endset %}{{ t }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%*d' % (10**9, 1) }}",
        "{{ '%1000000000d'|format(1) }}",
        "{{ '{:>{w}}'.format(1, w=10**9) }}",
        "{{ '{x:>1000000000}'.format_map({'x': 1}) }}",
        "{{ 'a'.ljust(10**9) }}",
        "{{ 'a'|center(10**9) }}",
        "{% filter center(10**9) %}a{% endfilter %}",
        "{{ ['a']|map('center', 10**9)|list }}",
        "{{ range(99999)|map('center', 99999)|list }}",
        "{{ [1]|slice(10**9)|list }}",
        "{{ 1.5|round(10**9) }}",
        "{{ {'a': 1}|tojson(indent=10**9) }}",
        "{{ ('a' * 1000000).replace('a', 'b' * 1000000) }}",
        "{{ ('a' * 1000000)|replace('a', 'b' * 1000000) }}",
        "{{ ('a' * 1000000).join(['a'] * 100000) }}",
        "{{ range(99999)|map('string')|join('a' * 1000000) }}",
        "{{ ('a' * 40)|regex_replace('(a|aa)+$(?<=b)', '') }}",
        "{{ ('a' * 100000)|regex_replace('a', 'b' * 100000) }}",
    ],
)
def test_a_template_ends_and_stays_small(template: str) -> None:
    started = time.thread_time()
    with pytest.raises(TemplateLimitError):
        utils.apply_template(template, DOC)
    assert time.thread_time() - started < 8


@pytest.mark.parametrize(
    "template",
    [
        "{{ x|join(', ') }} {{ ('a' ~ x)|length }} {{ x|map('string')|list }}",
        "{% for i in x %}{{ loop.index }}/{{ loop.length }}{{ ',' if not loop.last }}{% endfor %}",
        "{% for i in [[1, [2]], [3]] recursive %}{{ loop(i) if i is iterable else i }};{% endfor %}",
        "{{ x[0] + 1 }} {{ (x + x)|sum }} {{ 'a%s' % 1 }} {{ '{:>6,}'.format(n) }} {{ 'x' * 3 }} {{ 2 ** 70 }}",
        "{% filter upper %}abc{{ label }}{% endfilter %}{% set y | upper %}q{% endset %}{{ y }}",
        "{{ nope is defined }} {{ nope|default('z') }} {{ text.split()|first|title }}",
        "{% macro m(a, b=[n]) %}{{ a }}{{ b }}{% endmacro %}{{ m(3) }}{{ m(a=x) }}",
        "{{ {'a': x, 'b': (n, label)} }} {{ dict(a=1)|tojson }} {{ [x, [label]]|tojson(indent=2) }}",
        "{{ text|regex_replace('t(w)o', '\\\\1') }} {{ text|regex_replace('o', 'O', 1) }}",
        "{% set ns = namespace(s='') %}{% for w in text.split() %}{% set ns.s = ns.s ~ w %}{% endfor %}{{ ns.s }}",
        "{{ text.replace('o', '0').center(12) }}|{{ ['a', 'b']|batch(3, '-')|list }} {{ 1.257|round(2) }}\n",
    ],
)
def test_templates_render_as_in_lm_evals_own_environment(template: str) -> None:
    plain = Environment(loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True)
    plain.filters["regex_replace"] = utils.regex_replace
    assert utils.apply_template(template, DOC) == plain.from_string(template).render(**DOC)


def test_each_template_is_compiled_once() -> None:
    assert utils.env.from_string("{{ x }}") is utils.env.from_string("{{ x }}")


@pytest.mark.parametrize(
    "template",
    ["{{ range(10**9)|list }}", "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"],
)
def test_chat_templates_are_bounded_too(template: str, tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["chat"]
    messages = [{"role": "user", "content": "a"}]
    before = tokenizer.apply_chat_template(messages, tokenize=False)
    sandbox_chat_templates()
    assert tokenizer.apply_chat_template(messages, tokenize=False) == before
    with pytest.raises(TemplateLimitError):
        tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)
