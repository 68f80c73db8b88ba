--- The server's process: what starts it, how it goes on after it died, and what is said when it cannot.
local config = require('dgemma.config')

local M = {}

M.NAME = 'dgemma'

--- How long after a crash it is started again: once, twice, ... in a row.
M.backoff_ms = { 1000, 2000, 4000, 8000, 16000 }
--- A server that has lived for so long had no trouble starting.
M.healthy_ms = 60000
--- How long the first answer may take before the user hears of it.
M.patience_ms = 30000

---@type string? what is wrong, in one sentence with one thing to do
M.problem = nil

local SIGTERM = 15
--- How long it may take to say how it is.
local STATUS_MS = 1000

local crashes = 0
---@type table<integer, true> clients that answered `initialize`
local answered = {}
local started_at = 0
local patience ---@type uv.uv_timer_t?
local begin_after_exit = false
local told_better ---@type string?

--- A message that does not fit makes Neovim wait for a key, and swallow it: then it is told after typing.
---@param message string
---@param level integer
function M.say(message, level)
  local function tell()
    vim.notify('dgemma: ' .. message, level)
  end
  vim.schedule(function()
    local room = vim.o.columns * math.max(vim.o.cmdheight, 1) - 20
    if vim.startswith(vim.api.nvim_get_mode().mode, 'i') and vim.fn.strdisplaywidth(message) > room then
      vim.api.nvim_create_autocmd('InsertLeave', { once = true, callback = vim.schedule_wrap(tell) })
    else
      tell()
    end
  end)
end

---@param message string
local function complain(message)
  if not M.problem then -- the first one is the cause of the others
    M.problem = message
    M.say(message, vim.log.levels.ERROR)
    require('dgemma.status').changed()
  end
end

--- A method of a client: Neovim 0.10 has functions there.
---@param client vim.lsp.Client
---@param method string
function M.call(client, method, ...)
  if vim.fn.has('nvim-0.11') == 1 then
    return client[method](client, ...)
  end
  return client[method](...)
end

---@param bufnr? integer
---@return vim.lsp.Client?
function M.client(bufnr)
  return vim.lsp.get_clients({ name = M.NAME, bufnr = bufnr })[1]
end

---@param name string
---@return boolean
function M.offers_command(client, name)
  local provider = client.server_capabilities.executeCommandProvider
  return provider ~= nil and vim.tbl_contains(provider.commands or {}, name)
end

---@return string what a user runs to see what is wrong
local function check_command()
  return table.concat(require('dgemma.health').check_command(config.options.cmd), ' ')
end

local function stop_waiting()
  if patience and not patience:is_closing() then
    patience:close()
  end
  patience = nil
end

---@param params lsp.InitializeParams
local function on_start(params)
  local wanted = { dgemma = { status = true } }
  params.capabilities.experimental = vim.tbl_extend('force', params.capabilities.experimental or {}, wanted)
  started_at = vim.uv.now()
  stop_waiting()
  patience = vim.defer_fn(function()
    local seconds = math.floor(M.patience_ms / 1000)
    complain(('the server has not answered for %d s; see :Dgemma log, then :Dgemma restart'):format(seconds))
  end, M.patience_ms)
end

---@param client vim.lsp.Client
local function on_answer(client)
  answered[client.id] = true
  stop_waiting()
  M.problem = nil
end

---@param code integer
---@param signal integer
---@param client_id integer
local function on_exit(code, signal, client_id)
  local had_answered = answered[client_id]
  answered[client_id] = nil
  vim.schedule(function()
    stop_waiting()
    if vim.v.exiting ~= vim.NIL then
      return
    elseif begin_after_exit then
      begin_after_exit = false
      return M.begin()
    elseif signal == SIGTERM or (code == 0 and signal == 0) then
      return require('dgemma.status').changed() -- somebody wanted it to end
    end
    local how = signal ~= 0 and ('signal %d'):format(signal) or ('exit code %d'):format(code)
    if not had_answered then
      return complain(('the server does not start (%s); run `%s`, then :Dgemma restart'):format(how, check_command()))
    end
    crashes = vim.uv.now() - started_at > M.healthy_ms and 1 or crashes + 1
    local delay = M.backoff_ms[crashes]
    if not delay then
      crashes = 0
      return complain(('the server keeps ending (%s); see :Dgemma log, then :Dgemma restart'):format(how))
    end
    M.say(('the server has ended (%s); it is started again in %d s'):format(how, math.ceil(delay / 1000)), vim.log.levels.WARN)
    vim.defer_fn(M.begin, delay)
  end)
end

--- What the server wants shown: Neovim 0.11 would have the user press a key for it.
---@param params lsp.ShowMessageParams
local function on_message(_, params)
  local levels = { vim.log.levels.ERROR, vim.log.levels.WARN, vim.log.levels.INFO, vim.log.levels.INFO }
  local message = params.message:gsub('^dgemma: ', '')
  M.say(message, levels[params.type] or vim.log.levels.INFO)
end

--- How the server is. That another checkpoint would fill better is told once.
---@param status table
local function on_status(_, status, context)
  if status.engine then
    require('dgemma.status').engine_is(context.client_id, status.state ~= 'failed', status.message)
  end
  if status.state == 'ready' and status.better and status.better ~= told_better then
    told_better = status.better
    local offered = ('%s fills now; %s would fill better (%s): :Dgemma install'):format(status.checkpoint, status.better, status.offer)
    M.say(offered, vim.log.levels.INFO)
  end
end

---@param client vim.lsp.Client
---@return boolean
local function is_running(client)
  return client.name == M.NAME and not M.call(client, 'is_stopped')
end

--- The configuration of the client, as `vim.lsp.config` knows it.
---@return vim.lsp.ClientConfig
function M.config()
  return {
    name = M.NAME,
    cmd = config.options.cmd,
    cmd_cwd = vim.uv.os_homedir(), -- not the folder of the project: nothing in it shall be run
    filetypes = config.options.filetypes,
    root_markers = { 'pyproject.toml', 'package.json', 'go.mod', 'Cargo.toml', '.git' },
    reuse_client = is_running, -- one model in memory, however many projects are open
    init_options = config.options.settings,
    handlers = {
      ['window/showMessage'] = on_message,
      ['dgemma/status'] = on_status,
      ['dgemma/outcome'] = function() end,
    },
    before_init = on_start,
    on_init = on_answer,
    on_exit = on_exit,
  }
end

--- Whether the command that starts the server is there. Says so where it is not, once.
---@return boolean
function M.is_installed()
  local command = config.options.cmd[1]
  if vim.fn.executable(command) == 1 then
    return true
  end
  complain(("'%s' was not found; install the server by :Dgemma install, or pass its path: setup({ cmd = { PATH } })"):format(command))
  return false
end

---@param bufnr integer
local function attach(bufnr)
  local found = vim.deepcopy(vim.lsp.config and vim.lsp.config[M.NAME] or M.config())
  local function start(root)
    found.root_dir = root
    if not vim.lsp.start(found, { bufnr = bufnr, reuse_client = found.reuse_client }) then
      complain(('the server cannot be run; run `%s`, then :Dgemma restart'):format(check_command()))
    end
  end
  if type(found.root_dir) == 'function' then
    found.root_dir(bufnr, start)
  else
    start(found.root_dir or vim.fs.root(bufnr, found.root_markers or {}))
  end
end

---@param bufnr integer
---@return boolean
local function is_ours(bufnr)
  return vim.api.nvim_buf_is_loaded(bufnr)
    and vim.bo[bufnr].buftype == ''
    and vim.tbl_contains(config.options.filetypes, vim.bo[bufnr].filetype)
end

--- Start the server for every open buffer that it is for.
function M.begin()
  local buffers = vim.tbl_filter(is_ours, vim.api.nvim_list_bufs())
  if #buffers > 0 and M.is_installed() then
    vim.tbl_map(attach, buffers)
  end
end

--- Have it started with the options as they are now.
function M.reconfigure()
  if vim.lsp.config then
    vim.lsp.config(M.NAME, {}) -- has lsp/dgemma.lua read again
  end
end

--- End the server.
function M.stop()
  for _, client in ipairs(vim.lsp.get_clients({ name = M.NAME, _uninitialized = true })) do
    M.call(client, 'stop', true)
  end
end

--- Have the server started for buffers as they are opened.
---@param group integer
function M.enable(group)
  M.reconfigure()
  vim.api.nvim_create_autocmd('FileType', {
    group = group,
    pattern = config.options.filetypes,
    callback = function(event)
      if is_ours(event.buf) and M.is_installed() then
        attach(event.buf)
      end
    end,
  })
  M.begin()
end

--- Which checkpoint it runs, why, and which one would fill better; nil where it does not say.
---@param client vim.lsp.Client
---@return table?
function M.status(client)
  local reply = M.call(client, 'request_sync', 'dgemma/status', vim.empty_dict(), STATUS_MS)
  return reply and type(reply.result) == 'table' and reply.result or nil
end

--- End the server, and start it again.
function M.restart()
  crashes, M.problem = 0, nil
  local clients = vim.lsp.get_clients({ name = M.NAME, _uninitialized = true })
  if #clients == 0 then
    return M.begin()
  end
  begin_after_exit = true
  M.stop()
end

--- A buffer under a new name is another document.
---@param group integer
function M.follow_renames(group)
  local renamed = {}
  vim.api.nvim_create_autocmd('BufFilePre', {
    group = group,
    callback = function(event)
      local client = M.client(event.buf)
      if client then
        renamed[event.buf] = client.id
        vim.lsp.buf_detach_client(event.buf, client.id)
      end
    end,
  })
  vim.api.nvim_create_autocmd('BufFilePost', {
    group = group,
    callback = function(event)
      local client_id = renamed[event.buf]
      renamed[event.buf] = nil
      if client_id and vim.lsp.get_client_by_id(client_id) then
        vim.lsp.buf_attach_client(event.buf, client_id)
      end
    end,
  })
end

return M
