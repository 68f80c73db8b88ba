--- The file types that the server is started for by default: the languages that it has a grammar of.
return {
  'python', 'javascript', 'javascriptreact', 'typescript', 'tsx', 'typescriptreact', 'go', 'rust', 'java',
  'c', 'cpp', 'cuda-cpp', 'cuda', 'csharp', 'cs', 'c_sharp', 'ruby', 'php', 'lua', 'bash', 'shellscript',
  'sh', 'shell', 'zsh', 'html', 'css', 'json', 'jsonc', 'yaml', 'dockercompose', 'github-actions-workflow',
  'toml', 'markdown', 'sql',
}
