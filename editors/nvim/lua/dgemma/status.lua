--- What the server is doing, in a few words.
local programs = require('dgemma.programs')
local server = require('dgemma.server')

local M = {}

---@type table<integer, table<string|integer, string>> by client and token: what is going on
local running = {}
---@type table<integer, string> by client: why there is no model
local without_model = {}
---@type table<integer, true> by client: it has loaded one, or could not
local has_loaded = {}

local LOADING, READY = 'dgemma/loading', 'ready'
--- A command of the server that tells of its loading; others, in tests, may not.
local OWN_COMMAND = 'dgemma.fillHole'

--- Of a client whose server asks an engine: what is wrong with that, if anything.
---@param client_id integer
---@param is_well boolean
---@param message string
function M.engine_is(client_id, is_well, message)
  without_model[client_id] = not is_well and 'no engine: ' .. message or nil
  M.changed()
end

--- Have status lines drawn again.
function M.changed()
  vim.schedule(function()
    vim.cmd.redrawstatus({ bang = true })
    vim.api.nvim_exec_autocmds('User', { pattern = 'DgemmaStatus', modeline = false })
  end)
end

---@param client_id integer
---@param progress { token: string|integer, value: table }
local function on_progress(client_id, progress)
  local token, value = progress.token, progress.value
  local of_client = running[client_id] or {}
  running[client_id] = of_client
  if value.kind == 'end' then
    of_client[token] = nil
    if token == LOADING then
      has_loaded[client_id] = true
      if value.message ~= READY then
        without_model[client_id] = value.message
      end
    end
  else
    local share = value.percentage and (' %d%%'):format(value.percentage) or ''
    of_client[token] = (value.message or value.title or of_client[token] or 'working') .. share
  end
  M.changed()
end

---@param group integer
function M.enable(group)
  vim.api.nvim_create_autocmd('LspProgress', {
    group = group,
    callback = function(event)
      local client = vim.lsp.get_client_by_id(event.data.client_id)
      if client and client.name == server.NAME then
        on_progress(client.id, event.data.params or event.data.result)
      end
    end,
  })
  vim.api.nvim_create_autocmd({ 'LspAttach', 'LspDetach' }, { group = group, callback = M.changed })
end

--- For the current buffer; nil where the server is not for it.
---@return string?
function M.text()
  local bufnr = vim.api.nvim_get_current_buf()
  local attached = vim.lsp.get_clients({ name = server.NAME, bufnr = bufnr, _uninitialized = true })[1]
  if not attached then
    local is_for_it = vim.tbl_contains(require('dgemma.config').options.filetypes, vim.bo[bufnr].filetype)
    local reason = server.problem and 'not running: ' .. server.problem or 'not running'
    return is_for_it and (programs.doing or reason) or nil
  elseif not attached.initialized then
    return 'starting'
  elseif without_model[attached.id] then
    return without_model[attached.id]
  end
  local _, task = next(running[attached.id] or {})
  if not task and not has_loaded[attached.id] and server.offers_command(attached, OWN_COMMAND) then
    return 'loading the model' -- it has answered, and not yet begun
  end
  return programs.doing or task or (require('dgemma.inline').paused and 'paused' or 'ready')
end

return M
