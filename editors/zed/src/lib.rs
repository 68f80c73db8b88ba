//! Starts `dgemma-lsp` for the languages that `extension.toml` names.

use zed_extension_api::settings::LspSettings;
use zed_extension_api::{serde_json, Command, Extension, LanguageServerId, Result, Worktree};

const PROGRAM: &str = "dgemma-lsp";

struct Dgemma;

impl Extension for Dgemma {
    fn new() -> Self {
        Dgemma
    }

    fn language_server_command(
        &mut self,
        _: &LanguageServerId,
        worktree: &Worktree,
    ) -> Result<Command> {
        let binary = LspSettings::for_worktree(PROGRAM, worktree)?.binary;
        let (named, arguments) =
            binary.map_or((None, None), |binary| (binary.path, binary.arguments));
        let command = named.or_else(|| worktree.which(PROGRAM)).ok_or(
            "dgemma-lsp was not found: install it so that it is in PATH, or name it in lsp.dgemma-lsp.binary.path of the settings",
        )?;
        Ok(Command {
            command,
            args: arguments.unwrap_or_default(),
            env: worktree.shell_env(),
        })
    }

    fn language_server_initialization_options(
        &mut self,
        _: &LanguageServerId,
        worktree: &Worktree,
    ) -> Result<Option<serde_json::Value>> {
        Ok(LspSettings::for_worktree(PROGRAM, worktree)?.initialization_options)
    }
}

zed_extension_api::register_extension!(Dgemma);
