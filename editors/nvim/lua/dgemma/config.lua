--- What a user can set, once.
local M = {}

---@class dgemma.Options
local defaults = {
  --- The command that starts the server; without it, what `:Dgemma install` made is found, too.
  cmd = { 'dgemma-lsp' },
  filetypes = require('dgemma.filetypes'),
  --- Of these, the ones that it is not started for.
  disabled_filetypes = {},
  --- Sent to the server as it starts: see the server's settings.
  settings = vim.empty_dict(),
  --- Ask while typing. If false, only the key `suggest` asks.
  automatic = true,
  --- Draw through `vim.lsp.inline_completion`, which Neovim 0.12 brings.
  native = vim.lsp.inline_completion ~= nil,
  --- In insert mode, in buffers with the server; `next_edit` in normal mode. False for one key, or for all, leaves it
  --- alone.
  keys = {
    accept = '<Tab>',
    accept_word = '<M-Right>',
    accept_line = '<M-C-Right>',
    next = '<M-]>',
    previous = '<M-[>',
    dismiss = '<C-]>',
    suggest = '<M-\\>',
    next_edit = '<M-CR>',
  },
}

---@type dgemma.Options
M.options = vim.deepcopy(defaults)

--- Whether the user said which command starts the server.
M.cmd_is_given = false

--- Where `:Dgemma install` puts the server.
---@return string
function M.own_environment()
  return vim.fs.normalize(vim.fn.stdpath('data') .. '/dgemma/server')
end

--- A program of that environment.
---@param name string
---@return string
function M.own_program(name)
  return ('%s/%s/%s'):format(M.own_environment(), vim.fn.has('win32') == 1 and 'Scripts' or 'bin', name)
end

--- Unless the user named a command, take the one in `PATH`, or else the plugin's own.
function M.find_server()
  if M.cmd_is_given then
    return
  end
  local own = M.own_program('dgemma-lsp')
  local is_own = vim.fn.executable(defaults.cmd[1]) == 0 and vim.fn.executable(own) == 1
  M.options.cmd = is_own and { own } or vim.deepcopy(defaults.cmd)
end

---@param message string
local function complain(message)
  vim.notify('dgemma: ' .. message, vim.log.levels.WARN)
end

--- Take what the user passed to `setup`. What cannot be used costs a message, and the default is kept.
---@param options? table
function M.set(options)
  local taken = {}
  for name, value in pairs(options or {}) do
    local default = defaults[name]
    if default == nil then
      complain(("unknown option '%s'; see :help dgemma-options"):format(name))
    elseif type(value) ~= type(default) and not (name == 'keys' and value == false) then
      complain(("option '%s' must be a %s; the default is used"):format(name, type(default)))
    else
      taken[name] = value
    end
  end
  if taken.keys == false then
    taken.keys = {}
    for name in pairs(defaults.keys) do
      taken.keys[name] = false
    end
  end
  if taken.native and not defaults.native then
    complain("option 'native' wants Neovim 0.12; the plugin draws by itself")
    taken.native = nil
  end
  M.options = vim.tbl_deep_extend('force', vim.deepcopy(defaults), taken)
  -- Lists are taken as they are: merged ones would keep elements of the default.
  M.cmd_is_given = taken.cmd ~= nil
  M.options.cmd = taken.cmd
  M.find_server()
  M.options.filetypes = vim.tbl_filter(function(filetype)
    return not vim.tbl_contains(M.options.disabled_filetypes, filetype)
  end, taken.filetypes or defaults.filetypes)
end

return M
