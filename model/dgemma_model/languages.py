"""Which languages there are, and what each one's grammar calls the things that `syntax` asks about: one row each.

A row without a grammar on this machine costs nothing but its trees: the language is then plain text. Grammars are
separate wheels, whose parsers are compiled in: nothing is downloaded at run time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import PurePath


@dataclass(frozen=True, slots=True)
class Language:
    """One row. Node kinds and tokens are the grammar's own names for them."""

    name: str
    """Ours, and in most cases the identifier that LSP clients send."""
    module: str
    """The Python module that has the grammar; its wheel is called the same with dashes."""
    function: str = "language"
    """The module's function that gives the grammar."""
    other_ids: tuple[str, ...] = ()
    """What else LSP clients call the language."""
    extensions: tuple[str, ...] = ()
    line_comment: str = ""
    """What begins a comment that runs to the end of its line; empty where there is none."""
    comments: frozenset[str] = frozenset({"comment"})
    strings: frozenset[str] = frozenset()
    string_starts: frozenset[str] = frozenset()
    """Tokens that open a string; all that is left of a string that is never closed."""
    interpolations: frozenset[str] = frozenset()
    """Code inside a string."""
    identifiers: frozenset[str] = frozenset({"identifier"})
    """Names, as they are defined and used."""
    imports: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()
    """What is worth keeping whole: functions, classes, and what stands for them."""
    scope_wrappers: frozenset[str] = frozenset()
    """A scope together with what belongs to it: decorators, `export`, a template's parameters."""
    scope_prefixes: frozenset[str] = frozenset()
    """What may stand before such a scope: decorators again, each on its own."""
    scope_keywords: frozenset[str] = frozenset()
    """Tokens that open a scope; all that is left of one whose header does not parse."""
    signatures: frozenset[str] = frozenset()
    """Definitions besides `scopes` that other code is written against: types, constants."""
    block_openers: frozenset[str] = frozenset()
    """The last token of a header that a block follows; empty where the header just ends with its line."""
    blocks: frozenset[str] = frozenset()
    """Nodes in which such a token opens a block, whatever the header looks like."""
    block_keywords: frozenset[str] = frozenset()
    """First tokens of headers."""
    stand_in: str = "_"
    """An expression wherever one may stand, to see what parses around the cursor."""
    is_flat: bool = False
    """Scopes go on to the next one, whatever the indentation."""
    docstrings: bool = False
    """A string may stand between header and block."""

    @property
    def package(self) -> str:
        """The grammar's wheel."""
        return self.module.replace("_", "-")


def _kinds(names: str) -> frozenset[str]:
    return frozenset(names.split())


_BRACES = _kinds("{")
_C_STRINGS = _kinds("string_literal char_literal system_lib_string")
_C_KEYWORDS = _kinds("if else for while do switch struct union enum")

PYTHON = Language(
    name="python",
    module="tree_sitter_python",
    extensions=(".py", ".pyi"),
    line_comment="#",
    strings=_kinds("string"),
    string_starts=_kinds("string_start"),
    interpolations=_kinds("interpolation"),
    imports=_kinds("import_statement import_from_statement future_import_statement"),
    scopes=_kinds("function_definition class_definition"),
    scope_wrappers=_kinds("decorated_definition"),
    scope_prefixes=_kinds("decorator"),
    scope_keywords=_kinds("def class"),
    block_openers=_kinds(":"),
    block_keywords=_kinds("async case class def elif else except finally for if match try while with"),
    docstrings=True,
)
JAVASCRIPT = Language(
    name="javascript",
    module="tree_sitter_javascript",
    other_ids=("javascriptreact",),
    extensions=(".js", ".jsx", ".mjs", ".cjs"),
    line_comment="//",
    comments=_kinds("comment html_comment"),
    strings=_kinds("string template_string"),
    string_starts=frozenset({'"', "'", "`"}),
    interpolations=_kinds("template_substitution"),
    identifiers=_kinds("identifier property_identifier shorthand_property_identifier private_property_identifier"),
    imports=_kinds("import_statement"),
    scopes=_kinds(
        "function_declaration generator_function_declaration function_expression class_declaration class "
        "method_definition"
    ),
    scope_wrappers=_kinds("export_statement"),
    scope_keywords=_kinds("function class"),
    signatures=_kinds("lexical_declaration variable_declaration"),
    block_openers=_BRACES,
    blocks=_kinds("statement_block class_body switch_body"),
    block_keywords=_kinds("function class if else for while do switch try catch finally async export"),
)
TYPESCRIPT = replace(
    JAVASCRIPT,
    name="typescript",
    module="tree_sitter_typescript",
    function="language_typescript",
    other_ids=(),
    extensions=(".ts", ".mts", ".cts"),
    identifiers=JAVASCRIPT.identifiers | {"type_identifier"},
    scopes=JAVASCRIPT.scopes | _kinds("abstract_class_declaration interface_declaration internal_module"),
    scope_wrappers=_kinds("export_statement ambient_declaration"),
    scope_keywords=_kinds("function class interface namespace"),
    signatures=JAVASCRIPT.signatures | _kinds("type_alias_declaration enum_declaration function_signature"),
    blocks=JAVASCRIPT.blocks | _kinds("interface_body enum_body"),
    block_keywords=JAVASCRIPT.block_keywords | _kinds("interface enum namespace abstract declare"),
)
TSX = replace(TYPESCRIPT, name="tsx", function="language_tsx", other_ids=("typescriptreact",), extensions=(".tsx",))
GO = Language(
    name="go",
    module="tree_sitter_go",
    extensions=(".go",),
    line_comment="//",
    strings=_kinds("interpreted_string_literal raw_string_literal rune_literal"),
    string_starts=frozenset({'"', "`"}),
    identifiers=_kinds("identifier type_identifier field_identifier package_identifier"),
    imports=_kinds("package_clause import_declaration"),
    scopes=_kinds("function_declaration method_declaration type_declaration"),
    scope_keywords=_kinds("func type"),
    signatures=_kinds("const_declaration var_declaration type_declaration"),
    block_openers=_BRACES,
    blocks=_kinds("block field_declaration_list interface_type"),
    block_keywords=_kinds("func if else for switch select type"),
)
RUST = Language(
    name="rust",
    module="tree_sitter_rust",
    extensions=(".rs",),
    line_comment="//",
    comments=_kinds("line_comment block_comment"),
    strings=_kinds("string_literal raw_string_literal char_literal"),
    string_starts=frozenset({'"'}),
    identifiers=_kinds("identifier type_identifier field_identifier shorthand_field_identifier"),
    imports=_kinds("use_declaration extern_crate_declaration"),
    scopes=_kinds("function_item impl_item trait_item struct_item enum_item union_item mod_item macro_definition"),
    scope_prefixes=_kinds("attribute_item"),
    scope_keywords=_kinds("fn impl trait struct enum mod"),
    signatures=_kinds("const_item static_item type_item function_signature_item"),
    block_openers=_BRACES,
    blocks=_kinds("block declaration_list match_block field_declaration_list enum_variant_list"),
    block_keywords=_kinds("fn pub impl trait struct enum mod if else for while loop match unsafe async"),
)
JAVA = Language(
    name="java",
    module="tree_sitter_java",
    extensions=(".java",),
    line_comment="//",
    comments=_kinds("line_comment block_comment"),
    strings=_kinds("string_literal character_literal"),
    string_starts=frozenset({'"', '"""'}),
    interpolations=_kinds("string_interpolation"),
    identifiers=_kinds("identifier type_identifier"),
    imports=_kinds("package_declaration import_declaration"),
    scopes=_kinds(
        "method_declaration constructor_declaration class_declaration interface_declaration enum_declaration "
        "record_declaration annotation_type_declaration"
    ),
    scope_keywords=_kinds("class interface enum record"),
    signatures=_kinds("field_declaration"),
    block_openers=_BRACES,
    blocks=_kinds("block class_body interface_body enum_body constructor_body switch_block"),
    block_keywords=_kinds(
        "class interface enum record public private protected static if else for while do switch try"
    ),
)
C = Language(
    name="c",
    module="tree_sitter_c",
    extensions=(".c", ".h"),
    line_comment="//",
    strings=_C_STRINGS,
    string_starts=frozenset({'"'}),
    identifiers=_kinds("identifier type_identifier field_identifier"),
    imports=_kinds("preproc_include"),
    scopes=_kinds("function_definition struct_specifier union_specifier enum_specifier"),
    scope_wrappers=_kinds("type_definition"),
    scope_keywords=_kinds("struct union enum"),
    signatures=_kinds("declaration type_definition preproc_def preproc_function_def"),
    block_openers=_BRACES,
    blocks=_kinds("compound_statement field_declaration_list enumerator_list"),
    block_keywords=_C_KEYWORDS,
)
CPP = replace(
    C,
    name="cpp",
    module="tree_sitter_cpp",
    other_ids=("cuda-cpp",),
    extensions=(".cpp", ".cc", ".cxx", ".hpp", ".hh", ".hxx", ".cu"),
    strings=_C_STRINGS | {"raw_string_literal"},
    identifiers=C.identifiers | {"namespace_identifier"},
    imports=_kinds("preproc_include using_declaration"),
    scopes=C.scopes | _kinds("class_specifier namespace_definition"),
    scope_wrappers=_kinds("type_definition template_declaration"),
    scope_keywords=_kinds("class struct union enum namespace"),
    signatures=C.signatures | _kinds("alias_declaration concept_definition"),
    blocks=_kinds("compound_statement field_declaration_list enumerator_list declaration_list"),
    block_keywords=_C_KEYWORDS | _kinds("class namespace try catch template"),
)
CSHARP = Language(
    name="csharp",
    module="tree_sitter_c_sharp",
    other_ids=("cs", "c_sharp"),
    extensions=(".cs",),
    line_comment="//",
    strings=_kinds(
        "string_literal verbatim_string_literal raw_string_literal character_literal interpolated_string_expression"
    ),
    string_starts=frozenset({'"', "interpolation_start"}),
    interpolations=_kinds("interpolation"),
    imports=_kinds("using_directive extern_alias_directive"),
    scopes=_kinds(
        "method_declaration constructor_declaration local_function_statement property_declaration class_declaration "
        "struct_declaration record_declaration interface_declaration enum_declaration namespace_declaration"
    ),
    scope_keywords=_kinds("class struct record interface enum namespace"),
    signatures=_kinds("field_declaration delegate_declaration"),
    block_openers=_BRACES,
    blocks=_kinds("block declaration_list enum_member_declaration_list accessor_list switch_body"),
    block_keywords=_kinds(
        "class struct record interface enum namespace public private protected internal static if else for foreach "
        "while do switch try catch finally using lock"
    ),
)
RUBY = Language(
    name="ruby",
    module="tree_sitter_ruby",
    extensions=(".rb", ".rake", ".gemspec"),
    line_comment="#",
    strings=_kinds("string delimited_symbol regex subshell heredoc_body"),
    string_starts=frozenset({'"'}),
    interpolations=_kinds("interpolation"),
    identifiers=_kinds("identifier constant instance_variable class_variable global_variable"),
    scopes=_kinds("method singleton_method class module singleton_class"),
    scope_keywords=_kinds("def class module"),
    blocks=_kinds("do_block block block_parameters"),
    block_keywords=_kinds("def class module if unless while until case when begin else elsif ensure rescue for in"),
)
PHP = Language(
    name="php",
    module="tree_sitter_php",
    function="language_php",
    extensions=(".php", ".phtml"),
    line_comment="//",
    strings=_kinds("string encapsed_string heredoc nowdoc shell_command_expression"),
    string_starts=frozenset({'"', "'"}),
    identifiers=_kinds("name variable_name"),
    imports=_kinds("namespace_use_declaration namespace_definition"),
    scopes=_kinds(
        "function_definition method_declaration class_declaration interface_declaration trait_declaration "
        "enum_declaration"
    ),
    scope_keywords=_kinds("function class interface trait enum"),
    signatures=_kinds("const_declaration property_declaration"),
    block_openers=_BRACES,
    blocks=_kinds("compound_statement declaration_list enum_declaration_list switch_block match_block"),
    block_keywords=_kinds(
        "function class interface trait enum abstract final public private protected static if else elseif for "
        "foreach while do switch try catch finally"
    ),
)
LUA = Language(
    name="lua",
    module="tree_sitter_lua",
    extensions=(".lua",),
    line_comment="--",
    strings=_kinds("string"),
    string_starts=frozenset({'"', "'"}),
    scopes=_kinds("function_declaration function_definition"),
    scope_keywords=_kinds("function"),
    signatures=_kinds("variable_declaration"),
    block_openers=_kinds("then do else repeat )"),
    blocks=_kinds("parameters"),
    block_keywords=_kinds("if elseif else for while repeat function do"),
)
BASH = Language(
    name="bash",
    module="tree_sitter_bash",
    other_ids=("shellscript", "sh", "shell", "zsh"),
    extensions=(".sh", ".bash", ".zsh"),
    line_comment="#",
    strings=_kinds("string raw_string ansi_c_string heredoc_body"),
    string_starts=frozenset({'"'}),
    interpolations=_kinds("command_substitution expansion"),
    identifiers=_kinds("variable_name word"),
    scopes=_kinds("function_definition"),
    scope_keywords=_kinds("function"),
    signatures=_kinds("variable_assignment declaration_command"),
    block_openers=_kinds("{ then do else in"),
    blocks=_kinds("compound_statement do_group"),
    block_keywords=_kinds("if elif else for while until case then do function"),
)
HTML = Language(
    name="html",
    module="tree_sitter_html",
    extensions=(".html", ".htm"),
    strings=_kinds("quoted_attribute_value"),
    string_starts=frozenset({'"', "'"}),
    identifiers=_kinds("tag_name attribute_name"),
    scopes=_kinds("element script_element style_element"),
)
CSS = Language(
    name="css",
    module="tree_sitter_css",
    extensions=(".css",),
    comments=_kinds("comment js_comment"),
    strings=_kinds("string_value"),
    string_starts=frozenset({'"', "'"}),
    identifiers=_kinds("identifier property_name class_name id_name tag_name plain_value"),
    imports=_kinds("import_statement"),
    scopes=_kinds("rule_set media_statement keyframes_statement supports_statement"),
    block_openers=_BRACES,
    blocks=_kinds("block keyframe_block_list"),
)
JSON = Language(
    name="json",
    module="tree_sitter_json",
    other_ids=("jsonc",),
    extensions=(".json", ".jsonc"),
    strings=_kinds("string"),
    string_starts=frozenset({'"'}),
    identifiers=frozenset(),
    stand_in="0",
    scopes=_kinds("pair"),
)
YAML = Language(
    name="yaml",
    module="tree_sitter_yaml",
    other_ids=("dockercompose", "github-actions-workflow"),
    extensions=(".yaml", ".yml"),
    line_comment="#",
    strings=_kinds("double_quote_scalar single_quote_scalar"),
    string_starts=frozenset({'"'}),
    identifiers=_kinds("anchor_name alias_name"),
    scopes=_kinds("block_mapping_pair block_sequence_item"),
)
TOML = Language(
    name="toml",
    module="tree_sitter_toml",
    extensions=(".toml",),
    line_comment="#",
    strings=_kinds("string"),
    string_starts=frozenset({'"', "'"}),
    identifiers=_kinds("bare_key"),
    scopes=_kinds("table table_array_element"),
    stand_in="0",
    is_flat=True,
)
MARKDOWN = Language(
    name="markdown",
    module="tree_sitter_markdown",
    extensions=(".md", ".markdown"),
    comments=frozenset(),
    identifiers=frozenset(),
    scopes=_kinds("section"),
    is_flat=True,
)
SQL = Language(
    name="sql",
    module="tree_sitter_sql",
    extensions=(".sql",),
    line_comment="--",
    comments=_kinds("comment marginalia"),
    strings=_kinds("literal"),
    scopes=_kinds("statement create_function"),
    signatures=_kinds("create_table create_view"),
)

ROWS = (
    *(PYTHON, JAVASCRIPT, TYPESCRIPT, TSX, GO, RUST, JAVA, C, CPP, CSHARP, RUBY, PHP, LUA, BASH),
    *(HTML, CSS, JSON, YAML, TOML, MARKDOWN, SQL),
)
"""Every language with a grammar."""


def _by(keys: Iterable[tuple[str, Language]]) -> dict[str, Language]:
    table: dict[str, Language] = {}
    for key, row in keys:
        assert table.setdefault(key, row) is row, f"{key} names two languages"
    return table


_BY_ID = _by((name, row) for row in ROWS for name in (row.name, *row.other_ids))
_BY_EXTENSION = _by((extension, row) for row in ROWS for extension in row.extensions)


def row_of(language: str) -> Language | None:
    """The row of a language by any identifier that LSP clients send, or None for one without a grammar."""
    return _BY_ID.get(language)


def language_of(path: PurePath) -> str:
    """The language of a file by its name's ending: a row's name, or else the ending itself; `plaintext` without."""
    row = _BY_EXTENSION.get(path.suffix.lower())
    return row.name if row else path.suffix.lstrip(".") or "plaintext"
