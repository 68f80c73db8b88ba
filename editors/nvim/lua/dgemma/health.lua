--- :checkhealth dgemma
local M = {}

local CHECK_TIMEOUT_MS = 60000

--- The command that checks itself: `check` goes before the options of the server.
---@param command string[]
---@return string[]
function M.check_command(command)
  local checking, placed = {}, false
  for _, word in ipairs(command) do
    if not placed and vim.startswith(word, '--') then
      table.insert(checking, 'check')
      placed = true
    end
    table.insert(checking, word)
  end
  return placed and checking or vim.list_extend(checking, { 'check' })
end

---@param command string[]
local function check_server(command)
  local path = vim.fn.exepath(command[1])
  if path == '' then
    vim.health.error(("'%s' was not found"):format(command[1]), {
      ':Dgemma install, or pass its path: require("dgemma").setup({ cmd = { PATH } })',
    })
    return
  end
  vim.health.ok('server: ' .. path)
  local checking = M.check_command(command)
  local settings = require('dgemma.config').options.settings
  local by_engine = type(settings.engine) == 'string'
  local named = by_engine and { 'engine', 'engine_token_file' } or { 'checkpoint', 'device', 'quantize' }
  for _, name in ipairs(named) do
    if type(settings[name]) == 'string' then
      vim.list_extend(checking, { '--' .. name:gsub('_', '-'), settings[name] })
    end
  end
  local shown = table.concat(checking, ' ')
  local started, found = pcall(function()
    return vim.system(checking, { text = true, cwd = vim.uv.os_homedir() }):wait(CHECK_TIMEOUT_MS)
  end)
  if not started then
    vim.health.error('the server cannot be run: ' .. tostring(found), { 'Install it again, with a Python that is there' })
    return
  end
  local lines = vim.split(vim.trim(found.stdout .. found.stderr), '\n', { plain = true })
  if found.code == 0 then
    vim.health.ok(('`%s`:\n%s'):format(shown, table.concat(lines, '\n')))
  else
    local advice = ('Run `%s` in a terminal, and do what it says'):format(shown)
    local last = table.concat(vim.list_slice(lines, math.max(1, #lines - 15)), '\n')
    vim.health.error(('`%s` failed (exit code %d):\n%s'):format(shown, found.code, last), { advice })
  end
end

--- Keys that other plugins have mapped, too.
---@param bufnr integer
local function check_keys(bufnr)
  for _, conflict in ipairs(require('dgemma.keys').conflicts(bufnr)) do
    local said = ('%s (%s) is also mapped by: %s'):format(conflict.lhs, conflict.action, conflict.owner)
    if conflict.is_lost then
      local advice = ("Choose another key, such as setup({ keys = { %s = '<C-l>' } })"):format(conflict.action)
      vim.health.warn(said .. ', which comes first', { advice })
    else
      vim.health.info(said .. '; it is for whoever has something to show')
    end
  end
end

---@param bufnr integer
local function check_buffer(bufnr)
  local client = vim.lsp.get_clients({ name = 'dgemma', bufnr = bufnr })[1]
  local name = vim.api.nvim_buf_get_name(bufnr)
  if not client then
    vim.health.warn('the server is not attached to ' .. (name ~= '' and name or 'this buffer'))
    return
  end
  local info = client.server_info
  vim.health.ok(('attached to %s%s'):format(name, info and (': %s %s'):format(info.name, info.version) or ''))
  local running, better = unpack(require('dgemma.command').checkpoint_lines(client))
  if running then
    vim.health.ok(running)
  end
  if better then
    vim.health.warn(better)
  end
  check_keys(bufnr)
  if not client.server_capabilities.inlineCompletionProvider then
    vim.health.error('the server offers no inline completion', { 'Install a newer server' })
  end
end

function M.check()
  vim.health.start('dgemma: editor')
  local version = tostring(vim.version())
  if vim.fn.has('nvim-0.10') == 0 then
    vim.health.error(('Neovim %s is too old'):format(version), { 'Install Neovim 0.10 or later' })
    return
  end
  local config = require('dgemma.config')
  local server, status = require('dgemma.server'), require('dgemma.status')
  vim.health.ok(('Neovim %s; ghost text is drawn by %s'):format(version, config.options.native and 'Neovim' or 'the plugin'))
  if vim.fn.exists('#dgemma#LspAttach') == 0 then
    vim.health.warn('not set up', { 'Call require("dgemma").setup()' })
  end

  vim.health.start('dgemma: server')
  check_server(config.options.cmd)
  if server.problem then
    vim.health.error(server.problem)
  end

  vim.health.start('dgemma: buffers')
  local buffers = vim.tbl_filter(function(bufnr)
    return vim.api.nvim_buf_is_loaded(bufnr) and vim.tbl_contains(config.options.filetypes, vim.bo[bufnr].filetype)
  end, vim.api.nvim_list_bufs())
  for _, bufnr in ipairs(buffers) do
    check_buffer(bufnr)
  end
  if #buffers == 0 then
    vim.health.info('no buffer is open that the server is for: ' .. table.concat(config.options.filetypes, ', '))
  end
  if require('dgemma.inline').paused then
    vim.health.warn('suggestions are paused', { ':Dgemma resume' })
  end
  vim.health.info('log: ' .. require('dgemma.command').log_path() .. ' (:Dgemma log shows what is of this server)')
  vim.health.info('status: ' .. (status.text() or 'the current buffer is none of the above'))
end

return M
