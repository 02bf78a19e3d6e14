PYTHON = python3
LEARN = learn
ARGS =

# A folder that was moved, or whose Python is gone, is set up anew: the environment knows both by their paths.
READY := .venv/ready-$(shell pwd | cksum | cut -d " " -f 1)
NO_TORCH = import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is not None)
# Matplotlib lists the machine's fonts once, which takes seconds, and says so: better now than in a chapter.
FIND_FONT = from matplotlib.font_manager import findfont; findfont("DejaVu Sans")
BROKEN := $(shell .venv/bin/python -c "" 2>/dev/null || rm -f .venv/ready-*)

.PHONY: help setup lab test walk docs chapters handout clean

help:
	@echo 'make lab     open the course in JupyterLab, in your own copy of the chapters (the folder learn)'
	@echo 'make test    run every chapter and every test'
	@echo 'make docs    build the site'
	@echo
	@echo 'make walk       run every chapter in JupyterLab, as a learner would'
	@echo 'make chapters   after you edited a chapter in nbs: clean it, make the package from it, and build the site'
	@echo 'make setup      only install the course into .venv'
	@echo 'make handout    write the chapters without their solutions to the folder handout'
	@echo 'make clean      remove .venv and all that make has made, but never your copies of the chapters (learn, handout) or your runs'
	@echo
	@echo 'Whichever you call first sets up everything in .venv, which takes some minutes. To choose the Python for it,'
	@echo 'or to hand more words to JupyterLab, pytest or Sphinx:'
	@echo '    make lab PYTHON=python3.12 ARGS="--no-browser"'

lab: $(READY)
	@first=$$(.venv/bin/python nbs/learn.py "$(LEARN)") || exit; \
	root=; [ "$$(id -u)" != 0 ] || root=--allow-root; \
	echo 'JupyterLab opens in your browser. To stop it, press Control-C here.'; \
	.venv/bin/python -m jupyterlab -y --log-level=WARN $$root \
		--ServerApp.root_dir="$${first%/*}" --LabApp.default_url="/lab/tree/$${first##*/}" $(ARGS)

test: $(READY)
	@OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -n logical --dist loadfile --no-loadscope-reorder \
		--nbval --nbval-current-env --nbval-sanitize-with tests/sanitize.cfg nbs tests $(ARGS)

walk: $(READY)
	@.venv/bin/python -m pytest -q tests/walk.py $(ARGS)

docs: $(READY)
	@.venv/bin/python -m sphinx -W --keep-going -q -b html docs docs/_build/html $(ARGS)
	@echo 'Open docs/_build/html/index.html in a browser.'

chapters: $(READY)
	@.venv/bin/python .venv/bin/nbdev_clean && .venv/bin/python .venv/bin/nbdev_export
	@$(MAKE) --no-print-directory docs

setup: $(READY)

handout: $(READY)
	@.venv/bin/python nbs/handout.py handout

clean:
	@rm -rf .venv build dist *.egg-info docs/_build docs/chapters docs/api .pytest_cache .hypothesis .jupyter_cache
	@find nbs tinygpt tests docs \( -name __pycache__ -o -name .ipynb_checkpoints -o -name .jupyter_cache \) \
		-prune -exec rm -rf {} +
	@echo 'Removed .venv and all that make has made. The next make lab, test or docs sets up .venv again.'

# pip's log says when it begins to change the environment; what it leaves half done from there on is made anew.
# The last lines keep JupyterLab from asking whether to fetch news.
$(READY): settings.ini setup.py constraints.txt
	@stop() { echo "$$*" >&2; exit 1; }; \
	if [ -e .venv/unfinished ] || ! .venv/bin/python -c 'import pip' 2>/dev/null; then \
		"$(PYTHON)" -c '' 2>/dev/null || \
			stop 'There is no "$(PYTHON)" to run: install Python 3.11 or newer, or name yours: PYTHON=python3.12'; \
		version=$$("$(PYTHON)" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
		"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
			stop "The course needs Python 3.11 or newer, and $(PYTHON) is $$version: name a newer one: PYTHON=python3.12"; \
		"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || \
			stop "This Python has no venv module: on Debian or Ubuntu, run: sudo apt install python$$version-venv"; \
		"$(PYTHON)" -m venv --clear .venv || stop 'The folder .venv could not be made here: see the lines above.'; \
	fi; \
	rm -f .venv/ready-*; \
	if [ "$$(uname -s)" = Linux ] && .venv/bin/python -c '$(NO_TORCH)'; then \
		echo 'Installing the PyTorch for this machine: without a GPU, one that is much smaller.'; \
		touch .venv/unfinished; \
		{ .venv/bin/python -m pip install -q --retries 0 uv && UV_HTTP_RETRIES=0 .venv/bin/python -m uv pip install \
			--python .venv/bin/python --torch-backend=auto -c constraints.txt torch; } > .venv/torch.log 2>&1 || \
			echo 'That failed (.venv/torch.log says why), so pip chooses one.'; \
		rm -f .venv/unfinished; \
	fi; \
	echo 'Installing the course into .venv; this takes some minutes.'; \
	{ .venv/bin/python -m pip install -c constraints.txt -e '.[dev]' 2>&1 && touch '$@'; } | { \
		n=0; while IFS= read -r line; do \
			printf '%s\n' "$$line" >&3; \
			case "$$line" in \
			'Collecting '* | 'Processing '*) n=$$((n + 1)); [ $$((n % 20)) != 0 ] || echo "$$n packages found" ;; \
			'Installing collected '*) touch .venv/unfinished; echo "installing $$n packages" ;; \
			esac; \
		done; } 3> .venv/pip.log; \
	[ -e '$@' ] || stop 'Installing failed, often for want of a network: .venv/pip.log says why; then run make again.'; \
	rm -f .venv/unfinished; \
	.venv/bin/python -c '$(FIND_FONT)' 2>/dev/null; \
	mkdir -p .venv/share/jupyter/lab/settings; \
	echo '{"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": false}}' \
		> .venv/share/jupyter/lab/settings/overrides.json
