--- The suggestion of each buffer: asked for, kept up to date while the user types, accepted, dismissed.
--- How it is drawn is the business of a display: `ghost` or `native`.
local config = require('dgemma.config')
local server = require('dgemma.server')
local suggestion = require('dgemma.suggestion')

local M = {}

M.METHOD = 'textDocument/inlineCompletion'
M.INVOKED, M.AUTOMATIC = 1, 2

--- Long enough for one request after a burst of keys (a mapping, a slow terminal), too short to be noticed.
local BURST_MS = 20

---@class dgemma.Display
---@field draw fun(bufnr: integer, client: vim.lsp.Client, suggestion: dgemma.Suggestion, hint?: string)
---@field clear fun(bufnr: integer, client_id: integer)
---@field shows fun(bufnr: integer, suggestion: dgemma.Suggestion): boolean
---@field asks boolean whether it asks by itself while the user types
---@field request fun(client: vim.lsp.Client, method: string, params: table, handler: lsp.Handler, bufnr: integer): boolean, integer?

---@class dgemma.Buffer
---@field client_id integer
---@field display dgemma.Display
---@field sequence integer the newest request; answers to older ones are dropped
---@field request_id? integer
---@field timer? uv.uv_timer_t
---@field items dgemma.Suggestion[]
---@field index integer which of `items` is the current one
---@field counted boolean whether the user has leafed through `items`

---@type table<integer, dgemma.Buffer>
local buffers = {}

M.paused = false

---@param bufnr integer
---@param client_id integer
---@param display dgemma.Display
function M.attach(bufnr, client_id, display)
  buffers[bufnr] = { client_id = client_id, display = display, sequence = 0, items = {}, index = 1, counted = false }
end

---@param bufnr integer
---@param client_id integer
function M.detach(bufnr, client_id)
  if buffers[bufnr] and buffers[bufnr].client_id == client_id then
    M.drop(bufnr)
    buffers[bufnr] = nil
  end
end

---@param bufnr integer
---@return vim.lsp.Client?
function M.client(bufnr)
  return buffers[bufnr] and vim.lsp.get_client_by_id(buffers[bufnr].client_id)
end

--- Why nothing may be shown in a buffer, in whatever mode.
---@param bufnr integer
---@return string?
function M.obstacle(bufnr)
  if M.paused then
    return 'suggestions are paused; :Dgemma resume'
  elseif vim.fn.reg_recording() ~= '' or vim.fn.reg_executing() ~= '' then
    return 'a macro is recorded or executed: it must not depend on suggestions'
  elseif not vim.bo[bufnr].modifiable then
    return 'the buffer cannot be modified'
  end
end

--- Whether the user may be shown a suggestion now.
---@param bufnr integer
---@return boolean
function M.is_wanted(bufnr)
  return M.obstacle(bufnr) == nil
    and vim.api.nvim_get_current_buf() == bufnr
    and vim.startswith(vim.api.nvim_get_mode().mode, 'i')
end

---@return integer row 0-based
---@return integer column
---@return string line
local function cursor()
  local row, column = unpack(vim.api.nvim_win_get_cursor(0))
  return row - 1, column, vim.api.nvim_get_current_line()
end

--- Begin a request: from here on, only its answer counts.
---@param bufnr integer
---@return dgemma.Asked
function M.begin(bufnr)
  local state = buffers[bufnr]
  state.sequence = state.sequence + 1
  local row, column, line = cursor()
  local tick = vim.api.nvim_buf_get_changedtick(bufnr)
  return { sequence = state.sequence, tick = tick, row = row, column = column, line = line }
end

---@param encoding string
---@return fun(line: string, character: integer): integer
function M.byte_column(encoding)
  return function(line, character)
    if encoding == 'utf-8' then
      return math.min(character, #line)
    elseif vim.fn.has('nvim-0.11') == 1 then
      return vim.str_byteindex(line, encoding, character, false)
    end
    local widest = encoding == 'utf-16' and select(2, vim.str_utfindex(line)) or (vim.str_utfindex(line))
    return vim.str_byteindex(line, math.min(character, widest), encoding == 'utf-16')
  end
end

--- Take an answer, if it is still an answer: to the newest request, for the text and the place as they are now.
---@param bufnr integer
---@param asked dgemma.Asked
---@param result? lsp.InlineCompletionItem[]|lsp.InlineCompletionList
---@return boolean taken
function M.receive(bufnr, asked, result)
  local state, client = buffers[bufnr], M.client(bufnr)
  if not state or not client or asked.sequence ~= state.sequence or not M.is_wanted(bufnr) then
    return false
  end
  local row, column = cursor()
  local tick = vim.api.nvim_buf_get_changedtick(bufnr)
  if tick ~= asked.tick or row ~= asked.row or column ~= asked.column or type(result) ~= 'table' then
    return false -- null: a newer request has replaced this one
  end
  state.items, state.index, state.counted = {}, 1, false
  for _, item in ipairs(result.items or result) do
    local found = suggestion.from_item(item, asked, M.byte_column(client.offset_encoding))
    if found then
      table.insert(state.items, found)
    end
  end
  M.draw(bufnr)
  return true
end

--- What is left to write at the cursor.
---@param bufnr integer
---@return dgemma.Suggestion?
function M.current(bufnr)
  local state = buffers[bufnr]
  local item = state and state.items[state.index]
  return item and M.is_wanted(bufnr) and suggestion.rest(item, cursor()) or nil
end

--- What is left to write at the cursor, if the user sees it.
---@param bufnr integer
---@return dgemma.Suggestion?
function M.visible(bufnr)
  local current = M.current(bufnr)
  return current and buffers[bufnr].display.shows(bufnr, current) and current or nil
end

--- Show what is left; nothing, where the user has gone another way.
---@param bufnr integer
function M.draw(bufnr)
  local state, client, current = buffers[bufnr], M.client(bufnr), M.current(bufnr)
  if client and current then
    local hint = state.counted and ('(%d/%d)'):format(state.index, #state.items) or nil
    state.display.draw(bufnr, client, current, hint)
  elseif #state.items > 0 then
    state.items = {}
    state.display.clear(bufnr, state.client_id)
  end
end

---@param state dgemma.Buffer
local function stop_timer(state)
  if state.timer and not state.timer:is_closing() then
    state.timer:close()
  end
  state.timer = nil
end

--- Forget the suggestion and whatever was asked for.
---@param bufnr integer
function M.drop(bufnr)
  local state, client = buffers[bufnr], M.client(bufnr)
  if not state then
    return
  end
  stop_timer(state)
  state.sequence = state.sequence + 1
  if client and state.request_id then
    server.call(client, 'cancel_request', state.request_id)
  end
  state.request_id, state.items = nil, {}
  if vim.api.nvim_buf_is_valid(bufnr) then
    state.display.clear(bufnr, state.client_id)
  end
end

--- Ask the server for suggestions at the cursor.
---@param bufnr integer
---@param kind 1|2 INVOKED or AUTOMATIC
---@param on_taken? fun() called when the answer has been taken
function M.ask(bufnr, kind, on_taken)
  local state, client = buffers[bufnr], M.client(bufnr)
  if not state or not client or not M.is_wanted(bufnr) then
    return
  end
  stop_timer(state)
  local params = vim.lsp.util.make_position_params(0, client.offset_encoding)
  ---@diagnostic disable-next-line: inject-field
  params.context = { triggerKind = kind }
  local asked = M.begin(bufnr)
  local sent, id = state.display.request(client, M.METHOD, params, function(_, result)
    if M.receive(bufnr, asked, result) and on_taken then
      on_taken()
    end
  end, bufnr) -- the buffer's own number: for 0, Neovim 0.11 does not send the latest changes first
  state.request_id = sent and id or nil
end

--- After the user typed or moved.
---@param bufnr integer
function M.follow(bufnr)
  local state = buffers[bufnr]
  if not state then
    return
  end
  M.draw(bufnr)
  if config.options.automatic and state.display.asks then
    stop_timer(state)
    state.timer = vim.defer_fn(function()
      M.ask(bufnr, M.AUTOMATIC)
    end, BURST_MS)
  end
end

---@param bufnr integer
---@param edit dgemma.Edit
local function apply(bufnr, edit)
  -- As it is documented for `:set`: setting 'undolevels' makes what follows a step of its own for undo.
  vim.bo[bufnr].undolevels = vim.bo[bufnr].undolevels
  vim.api.nvim_buf_set_text(bufnr, edit.row, edit.first, edit.row, edit.last, edit.lines)
  local column = (#edit.lines == 1 and edit.first or 0) + #edit.lines[#edit.lines]
  vim.api.nvim_win_set_cursor(0, { edit.row + #edit.lines, column })
end

--- Write the first bytes of the visible suggestion.
---@param bufnr integer
---@param length fun(text: string): integer how many
---@return boolean whether there was one
function M.accept(bufnr, length)
  local visible = M.visible(bufnr)
  if not visible then
    return false
  end
  local state = buffers[bufnr]
  local edit, rest = suggestion.take(visible, length(visible.text))
  M.drop(bufnr)
  apply(bufnr, edit)
  if rest then
    state.items, state.index, state.counted = { rest }, 1, false
    M.draw(bufnr)
  elseif visible.command then
    local command = { command = visible.command.command, arguments = visible.command.arguments }
    server.call(assert(M.client(bufnr)), 'request', 'workspace/executeCommand', command, function() end, bufnr)
  end
  return true
end

--- Show another candidate, and how many there are; asks for more where there is only one.
---@param bufnr integer
---@param step integer
---@return boolean whether there was a visible suggestion to go on from
function M.select(bufnr, step)
  local state, visible = buffers[bufnr], M.visible(bufnr)
  if not visible then
    return false
  end
  local function show(index)
    state.index, state.counted = (index - 1) % #state.items + 1, true
    M.draw(bufnr)
  end
  if #state.items > 1 then
    show(state.index + step)
    return true
  end
  M.ask(bufnr, M.INVOKED, function()
    for _ = 1, #state.items do
      show(state.index + step)
      if state.items[state.index].text ~= visible.text then
        return
      end
    end
  end)
  return true
end

return M
