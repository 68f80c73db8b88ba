"""Which languages there are, and what each one's grammar calls the things that `syntax` asks about: one row each.

A row without a grammar on this machine costs nothing but its trees: the language is then plain text. Grammars are
separate wheels, whose parsers are compiled in: nothing is downloaded at run time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import PurePath

from dgemma_model.source.language_row import Language, kinds

_BRACES = kinds("{")
_C_STRINGS = kinds("string_literal char_literal system_lib_string")
_C_KEYWORDS = kinds("if else for while do switch struct union enum")

PYTHON = Language(
    name="python",
    module="tree_sitter_python",
    extensions=(".py", ".pyi"),
    line_comment="#",
    strings=kinds("string"),
    string_starts=kinds("string_start"),
    interpolations=kinds("interpolation"),
    imports=kinds("import_statement import_from_statement future_import_statement"),
    scopes=kinds("function_definition class_definition"),
    scope_wrappers=kinds("decorated_definition"),
    scope_prefixes=kinds("decorator"),
    scope_keywords=kinds("def class"),
    block_openers=kinds(":"),
    block_keywords=kinds("async case class def elif else except finally for if match try while with"),
    docstrings=True,
    named_arguments=kinds("keyword_argument"),
)
JAVASCRIPT = Language(
    name="javascript",
    module="tree_sitter_javascript",
    other_ids=("javascriptreact",),
    extensions=(".js", ".jsx", ".mjs", ".cjs"),
    line_comment="//",
    comments=kinds("comment html_comment"),
    strings=kinds("string template_string"),
    string_starts=frozenset({'"', "'", "`"}),
    interpolations=kinds("template_substitution"),
    identifiers=kinds("identifier property_identifier shorthand_property_identifier private_property_identifier"),
    imports=kinds("import_statement"),
    scopes=kinds(
        "function_declaration generator_function_declaration function_expression class_declaration class "
        "method_definition"
    ),
    scope_wrappers=kinds("export_statement"),
    scope_keywords=kinds("function class"),
    signatures=kinds("lexical_declaration variable_declaration"),
    block_openers=_BRACES,
    blocks=kinds("statement_block class_body switch_body"),
    block_keywords=kinds("function class if else for while do switch try catch finally async export"),
    named_arguments=kinds("jsx_attribute"),
)
TYPESCRIPT = replace(
    JAVASCRIPT,
    name="typescript",
    module="tree_sitter_typescript",
    function="language_typescript",
    other_ids=(),
    extensions=(".ts", ".mts", ".cts"),
    identifiers=JAVASCRIPT.identifiers | {"type_identifier"},
    scopes=JAVASCRIPT.scopes | kinds("abstract_class_declaration interface_declaration internal_module"),
    scope_wrappers=kinds("export_statement ambient_declaration"),
    scope_keywords=kinds("function class interface namespace"),
    signatures=JAVASCRIPT.signatures | kinds("type_alias_declaration enum_declaration function_signature"),
    blocks=JAVASCRIPT.blocks | kinds("interface_body enum_body"),
    block_keywords=JAVASCRIPT.block_keywords | kinds("interface enum namespace abstract declare"),
    named_arguments=frozenset(),
)
TSX = replace(
    TYPESCRIPT,
    name="tsx",
    function="language_tsx",
    other_ids=("typescriptreact",),
    extensions=(".tsx",),
    named_arguments=JAVASCRIPT.named_arguments,
)
GO = Language(
    name="go",
    module="tree_sitter_go",
    extensions=(".go",),
    line_comment="//",
    strings=kinds("interpreted_string_literal raw_string_literal rune_literal"),
    string_starts=frozenset({'"', "`"}),
    identifiers=kinds("identifier type_identifier field_identifier package_identifier"),
    imports=kinds("package_clause import_declaration"),
    scopes=kinds("function_declaration method_declaration type_declaration"),
    scope_keywords=kinds("func type"),
    signatures=kinds("const_declaration var_declaration type_declaration"),
    block_openers=_BRACES,
    blocks=kinds("block field_declaration_list interface_type"),
    block_keywords=kinds("func if else for switch select type"),
)
RUST = Language(
    name="rust",
    module="tree_sitter_rust",
    extensions=(".rs",),
    line_comment="//",
    comments=kinds("line_comment block_comment"),
    strings=kinds("string_literal raw_string_literal char_literal"),
    string_starts=frozenset({'"'}),
    identifiers=kinds("identifier type_identifier field_identifier shorthand_field_identifier"),
    imports=kinds("use_declaration extern_crate_declaration"),
    scopes=kinds("function_item impl_item trait_item struct_item enum_item union_item mod_item macro_definition"),
    scope_prefixes=kinds("attribute_item"),
    scope_keywords=kinds("fn impl trait struct enum mod"),
    signatures=kinds("const_item static_item type_item function_signature_item"),
    block_openers=_BRACES,
    blocks=kinds("block declaration_list match_block field_declaration_list enum_variant_list"),
    block_keywords=kinds("fn pub impl trait struct enum mod if else for while loop match unsafe async"),
    named_arguments=kinds("field_initializer"),
)
JAVA = Language(
    name="java",
    module="tree_sitter_java",
    extensions=(".java",),
    line_comment="//",
    comments=kinds("line_comment block_comment"),
    strings=kinds("string_literal character_literal"),
    string_starts=frozenset({'"', '"""'}),
    interpolations=kinds("string_interpolation"),
    identifiers=kinds("identifier type_identifier"),
    imports=kinds("package_declaration import_declaration"),
    scopes=kinds(
        "method_declaration constructor_declaration class_declaration interface_declaration enum_declaration "
        "record_declaration annotation_type_declaration"
    ),
    scope_keywords=kinds("class interface enum record"),
    signatures=kinds("field_declaration"),
    block_openers=_BRACES,
    blocks=kinds("block class_body interface_body enum_body constructor_body switch_block"),
    block_keywords=kinds("class interface enum record public private protected static if else for while do switch try"),
    named_arguments=kinds("element_value_pair"),
)
C = Language(
    name="c",
    module="tree_sitter_c",
    extensions=(".c", ".h"),
    line_comment="//",
    strings=_C_STRINGS,
    string_starts=frozenset({'"'}),
    identifiers=kinds("identifier type_identifier field_identifier"),
    imports=kinds("preproc_include"),
    scopes=kinds("function_definition struct_specifier union_specifier enum_specifier"),
    scope_wrappers=kinds("type_definition"),
    scope_keywords=kinds("struct union enum"),
    signatures=kinds("declaration type_definition preproc_def preproc_function_def"),
    block_openers=_BRACES,
    blocks=kinds("compound_statement field_declaration_list enumerator_list"),
    block_keywords=_C_KEYWORDS,
)
CPP = replace(
    C,
    name="cpp",
    module="tree_sitter_cpp",
    other_ids=("cuda-cpp", "cuda"),
    extensions=(".cpp", ".cc", ".cxx", ".hpp", ".hh", ".hxx", ".cu"),
    strings=_C_STRINGS | {"raw_string_literal"},
    identifiers=C.identifiers | {"namespace_identifier"},
    imports=kinds("preproc_include using_declaration"),
    scopes=C.scopes | kinds("class_specifier namespace_definition"),
    scope_wrappers=kinds("type_definition template_declaration"),
    scope_keywords=kinds("class struct union enum namespace"),
    signatures=C.signatures | kinds("alias_declaration concept_definition"),
    blocks=kinds("compound_statement field_declaration_list enumerator_list declaration_list"),
    block_keywords=_C_KEYWORDS | kinds("class namespace try catch template"),
)
CSHARP = Language(
    name="csharp",
    module="tree_sitter_c_sharp",
    other_ids=("cs", "c_sharp"),
    extensions=(".cs",),
    line_comment="//",
    strings=kinds(
        "string_literal verbatim_string_literal raw_string_literal character_literal interpolated_string_expression"
    ),
    string_starts=frozenset({'"', "interpolation_start"}),
    interpolations=kinds("interpolation"),
    imports=kinds("using_directive extern_alias_directive"),
    scopes=kinds(
        "method_declaration constructor_declaration local_function_statement property_declaration class_declaration "
        "struct_declaration record_declaration interface_declaration enum_declaration namespace_declaration"
    ),
    scope_keywords=kinds("class struct record interface enum namespace"),
    signatures=kinds("field_declaration delegate_declaration"),
    block_openers=_BRACES,
    blocks=kinds("block declaration_list enum_member_declaration_list accessor_list switch_body"),
    block_keywords=kinds(
        "class struct record interface enum namespace public private protected internal static if else for foreach "
        "while do switch try catch finally using lock"
    ),
    named_arguments=kinds("argument"),
)
RUBY = Language(
    name="ruby",
    module="tree_sitter_ruby",
    extensions=(".rb", ".rake", ".gemspec"),
    line_comment="#",
    strings=kinds("string delimited_symbol regex subshell heredoc_body"),
    string_starts=frozenset({'"'}),
    interpolations=kinds("interpolation"),
    identifiers=kinds("identifier constant instance_variable class_variable global_variable"),
    scopes=kinds("method singleton_method class module singleton_class"),
    scope_keywords=kinds("def class module"),
    blocks=kinds("do_block block block_parameters"),
    block_keywords=kinds("def class module if unless while until case when begin else elsif ensure rescue for in"),
    named_arguments=kinds("pair"),
)
PHP = Language(
    name="php",
    module="tree_sitter_php",
    function="language_php",
    extensions=(".php", ".phtml"),
    line_comment="//",
    strings=kinds("string encapsed_string heredoc nowdoc shell_command_expression"),
    string_starts=frozenset({'"', "'"}),
    identifiers=kinds("name variable_name"),
    imports=kinds("namespace_use_declaration namespace_definition"),
    scopes=kinds(
        "function_definition method_declaration class_declaration interface_declaration trait_declaration "
        "enum_declaration"
    ),
    scope_keywords=kinds("function class interface trait enum"),
    signatures=kinds("const_declaration property_declaration"),
    block_openers=_BRACES,
    blocks=kinds("compound_statement declaration_list enum_declaration_list switch_block match_block"),
    block_keywords=kinds(
        "function class interface trait enum abstract final public private protected static if else elseif for "
        "foreach while do switch try catch finally"
    ),
    named_arguments=kinds("argument"),
)
LUA = Language(
    name="lua",
    module="tree_sitter_lua",
    extensions=(".lua",),
    line_comment="--",
    strings=kinds("string"),
    string_starts=frozenset({'"', "'"}),
    scopes=kinds("function_declaration function_definition"),
    scope_keywords=kinds("function"),
    signatures=kinds("variable_declaration"),
    block_openers=kinds("then do else repeat )"),
    blocks=kinds("parameters"),
    block_keywords=kinds("if elseif else for while repeat function do"),
)
BASH = Language(
    name="bash",
    module="tree_sitter_bash",
    other_ids=("shellscript", "sh", "shell", "zsh"),
    extensions=(".sh", ".bash", ".zsh"),
    line_comment="#",
    strings=kinds("string raw_string ansi_c_string heredoc_body"),
    string_starts=frozenset({'"'}),
    interpolations=kinds("command_substitution expansion"),
    identifiers=kinds("variable_name word"),
    scopes=kinds("function_definition"),
    scope_keywords=kinds("function"),
    signatures=kinds("variable_assignment declaration_command"),
    block_openers=kinds("{ then do else in"),
    blocks=kinds("compound_statement do_group"),
    block_keywords=kinds("if elif else for while until case then do function"),
)
HTML = Language(
    name="html",
    module="tree_sitter_html",
    extensions=(".html", ".htm"),
    strings=kinds("quoted_attribute_value"),
    string_starts=frozenset({'"', "'"}),
    identifiers=kinds("tag_name attribute_name"),
    scopes=kinds("element script_element style_element"),
    named_arguments=kinds("attribute"),
)
CSS = Language(
    name="css",
    module="tree_sitter_css",
    extensions=(".css",),
    comments=kinds("comment js_comment"),
    strings=kinds("string_value"),
    string_starts=frozenset({'"', "'"}),
    identifiers=kinds("identifier property_name class_name id_name tag_name plain_value"),
    imports=kinds("import_statement"),
    scopes=kinds("rule_set media_statement keyframes_statement supports_statement"),
    block_openers=_BRACES,
    blocks=kinds("block keyframe_block_list"),
)
JSON = Language(
    name="json",
    module="tree_sitter_json",
    other_ids=("jsonc",),
    extensions=(".json", ".jsonc"),
    strings=kinds("string"),
    string_starts=frozenset({'"'}),
    identifiers=frozenset(),
    stand_in="0",
    scopes=kinds("pair"),
)
YAML = Language(
    name="yaml",
    module="tree_sitter_yaml",
    other_ids=("dockercompose", "github-actions-workflow"),
    extensions=(".yaml", ".yml"),
    line_comment="#",
    strings=kinds("double_quote_scalar single_quote_scalar"),
    string_starts=frozenset({'"'}),
    identifiers=kinds("anchor_name alias_name"),
    scopes=kinds("block_mapping_pair block_sequence_item"),
)
TOML = Language(
    name="toml",
    module="tree_sitter_toml",
    extensions=(".toml",),
    line_comment="#",
    strings=kinds("string"),
    string_starts=frozenset({'"', "'"}),
    identifiers=kinds("bare_key"),
    scopes=kinds("table table_array_element"),
    stand_in="0",
    is_flat=True,
)
MARKDOWN = Language(
    name="markdown",
    module="tree_sitter_markdown",
    extensions=(".md", ".markdown"),
    comments=frozenset(),
    identifiers=frozenset(),
    scopes=kinds("section"),
    is_flat=True,
)
SQL = Language(
    name="sql",
    module="tree_sitter_sql",
    extensions=(".sql",),
    line_comment="--",
    comments=kinds("comment marginalia"),
    strings=kinds("literal"),
    scopes=kinds("statement create_function"),
    signatures=kinds("create_table create_view"),
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
IDENTIFIERS = tuple(_BY_ID)
"""Everything that LSP clients call these languages. Editors start the server for them, unless told otherwise."""
_BY_EXTENSION = _by((extension, row) for row in ROWS for extension in row.extensions)


def row_of(language: str) -> Language | None:
    """The row of a language by any identifier that LSP clients send, or None for one without a grammar."""
    return _BY_ID.get(language)


def language_of(path: PurePath) -> str:
    """The language of a file by its name's ending: a row's name, or else the ending itself; `plaintext` without."""
    row = _BY_EXTENSION.get(path.suffix.lower())
    return row.name if row else path.suffix.lstrip(".") or "plaintext"
