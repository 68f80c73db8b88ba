--- The command :Dgemma.
local inline = require('dgemma.inline')
local next_edit = require('dgemma.next_edit')
local server = require('dgemma.server')
local status = require('dgemma.status')

local M = {}

local EXPLAIN_SILENCE = 'dgemma.explainSilence'
local LOG_LINES = 500

---@param lines string[]
local function tell(lines)
  vim.api.nvim_echo({ { table.concat(lines, '\n') } }, true, {})
end

---@return string
function M.log_path()
  return vim.lsp.log and vim.lsp.log.get_filename and vim.lsp.log.get_filename() or vim.lsp.get_log_path()
end

--- What the server wrote, out of Neovim's log of all servers.
---@return string[]
local function server_log()
  local command, found = vim.inspect(require('dgemma.config').options.cmd[1]), {}
  local file = io.open(M.log_path(), 'r')
  if not file then
    return found
  end
  for line in file:lines() do
    local written = line:find(command, 1, true) and line:match('\t"stderr"\t["\'](.*)["\']$')
    if written then
      local text = written:gsub('\\(.)', { n = '\n', t = '\t', ['"'] = '"', ['\\'] = '\\' })
      vim.list_extend(found, vim.split(vim.trim(text), '\n', { plain = true }))
    end
  end
  file:close()
  return vim.list_slice(found, math.max(1, #found - LOG_LINES + 1))
end

--- Which checkpoint fills and why, and then which one would fill better.
---@param client vim.lsp.Client
---@return string[]
function M.checkpoint_lines(client)
  local said, lines = server.status(client) or {}, {}
  if said.engine then
    table.insert(lines, ('engine: %s, %s; text goes to %s'):format(said.message, said.why, said.text_goes_to))
  elseif said.checkpoint then
    table.insert(lines, ('checkpoint: %s, because %s'):format(said.checkpoint, said.why))
  end
  if said.better then
    table.insert(lines, ('%s would fill better (%s); :Dgemma install gets it'):format(said.better, said.offer))
  end
  return lines
end

local subcommands = {}

--- Where text goes.
function subcommands.engine()
  local client = server.client(vim.api.nvim_get_current_buf())
  if not client then
    return tell({ 'dgemma: ' .. (status.text() or 'the server is not for this kind of file') })
  end
  local said = server.status(client) or {}
  if said.engine then
    tell({ 'dgemma: text goes to ' .. said.text_goes_to, 'engine: ' .. said.message, 'it was ' .. said.why })
  else
    tell({ 'dgemma: text goes nowhere: the model runs inside the server; see :help dgemma-engine' })
  end
end

function subcommands.install()
  require('dgemma.install').run()
end

function subcommands.checkpoint()
  require('dgemma.checkpoints').choose()
end

function subcommands.remove()
  require('dgemma.checkpoints').remove()
end

function subcommands.cancel()
  if not require('dgemma.programs').cancel() then
    tell({ 'dgemma: there is nothing to cancel' })
  end
end

function subcommands.status()
  local bufnr, lines = vim.api.nvim_get_current_buf(), { 'dgemma: ' .. (status.text() or 'not for this buffer') }
  local client = server.client(bufnr)
  if client then
    local info = client.server_info
    table.insert(lines, ('server: %s'):format(info and ('%s %s'):format(info.name, info.version) or client.name))
    vim.list_extend(lines, M.checkpoint_lines(client))
    local reason = inline.obstacle(bufnr)
    if reason then
      table.insert(lines, 'quiet: ' .. reason)
    end
  end
  tell(lines)
end

function subcommands.pause()
  inline.paused = true
  for _, bufnr in ipairs(vim.api.nvim_list_bufs()) do
    inline.drop(bufnr)
    next_edit.drop(bufnr)
  end
  status.changed()
end

function subcommands.resume()
  inline.paused = false
  status.changed()
end

function subcommands.why()
  local bufnr = vim.api.nvim_get_current_buf()
  local client, reason = server.client(bufnr), inline.obstacle(bufnr)
  if not client then
    return tell({ 'dgemma: ' .. (status.text() or 'the server is not for this kind of file') })
  elseif reason then
    return tell({ 'dgemma: ' .. reason })
  elseif not server.offers_command(client, EXPLAIN_SILENCE) then
    return tell({ 'dgemma: this server does not say why; see :Dgemma log' })
  end
  local params = { command = EXPLAIN_SILENCE, arguments = { vim.uri_from_bufnr(bufnr) } }
  server.call(client, 'request', 'workspace/executeCommand', params, function(err, result)
    if err then
      tell({ 'dgemma: ' .. err.message })
    elseif type(result) == 'table' and result.reason then
      tell({ ('dgemma: nothing was shown because %s (%s)'):format(result.reason, result.name) })
    else
      tell({ 'dgemma: there was something to show at the last request' })
    end
  end, bufnr)
end

local PAGES = {
  { 'checkpoints', 'Which checkpoint for my machine?' },
  { 'privacy', 'What is read, and where does it go?' },
  { 'silence', 'Why is nothing shown?' },
  { 'team', 'How does a team share one model?' },
  { 'removing', 'How do I remove everything?' },
}

--- Open a page that answers a question. They are in the clone of the repository that the plugin is in.
function subcommands.docs()
  local clone = require('dgemma.install').clone()
  if not clone then
    return vim.cmd.help('dgemma')
  end
  local function label(page)
    return page[2]
  end
  vim.ui.select(PAGES, { prompt = 'dgemma', format_item = label }, function(page)
    if page then
      vim.cmd.split({ args = { ('%s/docs/%s.md'):format(clone, page[1]) }, mods = { split = 'botright' } })
      vim.bo.readonly, vim.bo.modifiable = true, false
    end
  end)
end

function subcommands.log()
  local lines = server_log()
  vim.cmd('botright new')
  vim.bo.buftype, vim.bo.bufhidden, vim.bo.swapfile = 'nofile', 'wipe', false
  local none = { 'The server has written nothing to ' .. M.log_path() }
  vim.api.nvim_buf_set_lines(0, 0, -1, false, #lines > 0 and lines or none)
  vim.bo.modifiable = false
  vim.cmd('normal! G')
end

function subcommands.restart()
  server.restart()
end

---@param arguments string[]
function M.run(arguments)
  local name = arguments[1] or 'status'
  local run = subcommands[name]
  if run and #arguments <= 1 then
    return run()
  end
  local known = vim.tbl_keys(subcommands)
  table.sort(known)
  vim.notify(('dgemma: no subcommand %q; there are %s'):format(table.concat(arguments, ' '), table.concat(known, ', ')),
    vim.log.levels.ERROR)
end

---@param lead string
---@param line string
---@return string[]
function M.complete(lead, line)
  if line:find('^%s*%S+%s+%S+%s') then
    return {} -- there is one already
  end
  local names = vim.tbl_filter(function(name)
    return vim.startswith(name, lead)
  end, vim.tbl_keys(subcommands))
  table.sort(names)
  return names
end

return M
