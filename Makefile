# make demo   gets the default checkpoint (491 MB, once) and fills a hole each in Python, TypeScript and Go
# make test   everything that CI checks
# make vscode   the extension for VS Code, with this server in it: dist/dgemma-VERSION.vsix; wants Node 20 or later
# make test-editors   real editors with the plugins or lines of editors/, by their keys; as root on Debian, installs Emacs and Kate
# make eval   how many held-out holes come out right: the tables, and eval/results.csv
# make bench  times of encoder, decoder and fills, beside transformers
# Each makes .venv on first use. On Python 3.11 and later.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo weights test vscode test-editors check eval bench clean

demo: .venv/.installed
	-$(BIN)/dgemma-lsp pull
	$(BIN)/dgemma-lsp fill examples/inventory.py:26:13
	$(BIN)/dgemma-lsp fill examples/basket.ts:15:5
	$(BIN)/dgemma-lsp fill examples/inventory.go:14:3

# The default checkpoint, for tests of the real weights. Without it they fail in CI, and are skipped on other machines.
weights: .venv/.installed-test
	$(BIN)/dgemma-lsp pull || test -z "$$CI"

test: check weights
	$(BIN)/python -m pytest -q

vscode: .venv/.installed-test editors/vscode/node_modules/.package-lock.json
	rm -rf editors/vscode/server dist/dgemma-*.vsix
	mkdir -p dist
	$(BIN)/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir editors/vscode/server .
	cp LICENSE editors/vscode/LICENSE.txt
	cd editors/vscode && npm test && npm run package

editors/vscode/node_modules/.package-lock.json: editors/vscode/package-lock.json
	cd editors/vscode && npm ci --ignore-scripts --no-audit --no-fund
	touch $@

# Neovim 0.11 comes with the environment; the oldest and the newest that the plugin supports come from Debian.
test-editors: .venv/.installed-test vscode
	-tests/editors/nvim/fetch_neovim.sh trixie .cache/neovim/trixie
	-tests/editors/nvim/fetch_neovim.sh sid .cache/neovim/sid
	-tests/editors/vscode/fetch_codeserver.sh .cache/code-server
	-tests/editors/other/fetch_editors.sh .cache/helix
	$(BIN)/python -m pytest -q -m editors tests/editors/nvim
	$(BIN)/python -m pytest -q -m editors tests/editors/other
	$(BIN)/python -m pytest -q -m editors tests/editors/vscode

check: .venv/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

eval: .venv/.installed-test
	$(BIN)/dgemma-lsp eval --output eval/results.csv --calibration eval/calibration.svg

bench: .venv/.installed-test
	$(BIN)/dgemma-lsp bench

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/.installed-test: .venv/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf .venv
